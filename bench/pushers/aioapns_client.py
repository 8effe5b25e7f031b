"""aioapns with one connection; its server's name is a constant, so a class of our own names another."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import sys
import time

from aioapns import APNs, NotificationRequest
from aioapns.connection import APNsProductionClientProtocol
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.pushers.figures import BODY, TOKENS, TOPIC, WARM, Figures


async def main(port: int, authority: str, count: int, in_flight: int) -> None:
    class Here(APNsProductionClientProtocol):
        APNS_SERVER, APNS_PORT = "127.0.0.1", port

    trust = ssl.create_default_context(cafile=authority)
    trust.set_alpn_protocols(["h2"])
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    client = APNs(
        key=pem, key_id="ABC123DEFG", team_id="TEAM123456", topic=TOPIC, ssl_context=trust, max_connections=1
    )
    client.pool.protocol_class = Here
    body = json.loads(BODY)

    async def run(total: int) -> Figures:
        figures = Figures()
        numbers = iter(range(total))

        async def lane() -> None:
            for number in numbers:
                began = time.perf_counter()
                request = NotificationRequest(
                    TOKENS[number % len(TOKENS)], body, time_to_live=3600, collapse_key="like-99"
                )
                said = await client.send_notification(request)
                figures.answered(said.status, time.perf_counter() - began)

        await asyncio.gather(*(lane() for _ in range(in_flight)))
        return figures

    await run(min(WARM, count))
    (await run(count)).print()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
