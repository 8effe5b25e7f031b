"""A push in the HTTP/2 client alone, beside h2: bytes made, answer read, without socket and TLS.

Both get the same requests and the same bytes as answers, in batches of 100 as under load. The server's side is
made by hand outside the measured time. Windows are given back by the server as it reads, also outside.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.harness import SERVER_CORE, Column, NotInstalled, Result, Running, Variant, interleave
from notifier.core.http2 import Limits, PushConnection, Template, constant, secret, varying

COLUMNS = (
    Column("push_us", "push + pull, µs", 2),
    Column("feed_us", "feed, µs", 2),
    Column("both_us", "together, µs", 2),
    Column("bytes", "bytes/push", 0),
)
BATCH = 100
BODY = (
    b'{"aps":{"alert":"ana likes your photo","badge":3},"nid":"b1946ac9-2492-4a1c-8b6c-3f0a6b1d2c3e"}'.ljust(
        205
    )
)
FCM_BODY = BODY.ljust(473)
TOKEN, ID, EXPIRATION = b"ab" * 32, b"b1946ac9-2492-4a1c-8b6c-3f0a6b1d2c3e", b"1790000000"
START = [constant(b":method", b"POST"), constant(b":scheme", b"https")]
SECRET = secret(b"authorization", b"bearer " + b"j" * 215, indexed=True)
APNS = Template(
    [
        *START,
        constant(b":authority", b"api.push.apple.com"),
        varying(b":path", b"/3/device/", private=True),
        SECRET,
        constant(b"apns-topic", b"com.example.app"),
        constant(b"apns-push-type", b"alert"),
        constant(b"apns-priority", b"10"),
        varying(b"apns-id"),
        varying(b"apns-expiration"),
    ]
)
FCM = Template(
    [
        *START,
        constant(b":authority", b"fcm.googleapis.com"),
        constant(b":path", b"/v1/projects/example/messages:send"),
        SECRET,
        constant(b"content-type", b"application/json"),
    ]
)


@dataclass(frozen=True)
class Case:
    """`answer`: the bytes of one, by stream."""

    template: Template
    values: tuple[bytes, ...]
    body: bytes
    answer: Callable[[int], bytes]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _block(status: bytes, *fields: tuple[bytes, bytes]) -> bytes:
    """As an encoder without a table writes it, in Huffman code."""
    try:
        from hpack.huffman import HuffmanEncoder
        from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
    except ImportError:
        raise NotInstalled("h2 (pip install h2)") from None
    code = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode

    def string(text: bytes) -> bytes:
        coded: bytes = code(text)
        return bytes((0x80 | len(coded),)) + coded

    return status + b"".join(b"\0" + string(name) + string(value) for name, value in fields)


def cases() -> dict[str, Case]:
    ok = _block(b"\x88", (b"apns-id", ID))
    gone = _block(b"\x08\x03410", (b"apns-id", ID))
    fcm = _block(b"\x88", (b"content-type", b"application/json"), (b"date", b"Sun, 22 Nov 2026 10:00:00 GMT"))
    reason = b'{"reason":"Unregistered","timestamp":1790000000000}'
    name = b'{"name":"projects/example/messages/0:1790000000000000%31bd1c9631bd1c96"}'.ljust(80)
    apns = (APNS, (TOKEN, ID, EXPIRATION), BODY)
    return {
        "APNs, 200": Case(*apns, lambda stream: _frame(1, 5, stream, ok)),
        "APNs, 410": Case(*apns, lambda stream: _frame(1, 4, stream, gone) + _frame(0, 1, stream, reason)),
        "FCM, 200": Case(
            FCM, (), FCM_BODY, lambda stream: _frame(1, 4, stream, fcm) + _frame(0, 1, stream, name)
        ),
    }


class Ours:
    name = "notifier"

    def __init__(self, case: Case) -> None:
        self._case = case
        self._connection: PushConnection[int] = PushConnection(Limits(), 0.0)
        self.feed(_frame(4, 0, 0) + _frame(4, 1, 0))
        self.push(1)
        self.feed(_frame(1, 5, 1, b"\x20\x88"))

    def push(self, count: int) -> bytes:
        push, case = self._connection.push, self._case
        template, values, body = case.template, case.values, case.body
        for number in range(count):
            push(number, template, values, body, 0.0)
        return self._connection.pull()

    def feed(self, data: bytes) -> int:
        return len(self._connection.feed(data, 0.0))


class H2:
    """h2 as its documentation has it, but for one write per batch."""

    name = "h2"

    def __init__(self, case: Case) -> None:
        try:
            import h2.config
            import h2.connection
            import h2.events
        except ImportError:
            raise NotInstalled("h2 (pip install h2)") from None
        from hpack import HeaderTuple, NeverIndexedHeaderTuple

        self._data, self._ended = h2.events.DataReceived, h2.events.StreamEnded
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._h2.update_settings({1: 0})
        self._body = case.body
        given = iter(case.values)
        self._headers = [
            HeaderTuple(f.name, f.value)
            if f.value is not None
            else NeverIndexedHeaderTuple(f.name, f.prefix + next(given))
            for f in case.template.fields
        ]
        self.feed(_frame(4, 0, 0) + _frame(4, 1, 0) * 2)
        self.push(1)
        self.feed(_frame(1, 5, 1, b"\x20\x88"))

    def push(self, count: int) -> bytes:
        connection, headers, body = self._h2, self._headers, self._body
        for _ in range(count):
            stream = connection.get_next_available_stream_id()
            connection.send_headers(stream, headers)
            connection.send_data(stream, body, end_stream=True)
        sent: bytes = connection.data_to_send()
        return sent

    def feed(self, data: bytes) -> int:
        ended = 0
        for event in self._h2.receive_data(data):
            if isinstance(event, self._data):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, self._ended):
                ended += 1
        return ended


def measure(client: Ours | H2, case: Case, batches: int) -> Result:
    """Microseconds of CPU for each push, and the bytes it took."""
    pushing = feeding = sent = 0
    stream = 3
    for number in range(-2, batches):
        client.feed(_frame(8, 0, 0, (BATCH * len(case.body)).to_bytes(4, "big")))
        answers = b"".join(case.answer(stream + 2 * at) for at in range(BATCH))
        stream += 2 * BATCH
        start = time.process_time_ns()
        data = client.push(BATCH)
        middle = time.process_time_ns()
        answered = client.feed(answers)
        end = time.process_time_ns()
        assert answered == BATCH, f"{answered} of {BATCH} pushes were answered"
        if number >= 0:
            pushing, feeding, sent = pushing + middle - start, feeding + end - middle, sent + len(data)
    count = batches * BATCH * 1000
    return {
        "push_us": pushing / count,
        "feed_us": feeding / count,
        "both_us": (pushing + feeding) / count,
        "bytes": sent / (batches * BATCH),
    }


def variants(batches: int) -> list[Variant]:
    os.sched_setaffinity(0, {SERVER_CORE})

    def variant(client: type[Ours | H2], kind: str) -> Variant:
        def run(_running: Running) -> Result:
            case = cases()[kind]
            return measure(client(case), case, batches if client is Ours else max(1, batches // 20))

        return Variant(f"{client.name}, {kind}", lambda: Running(0, ()), run)

    return [variant(client, kind) for client in (Ours, H2) for kind in ("APNs, 200", "APNs, 410", "FCM, 200")]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.http2_core", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=300, help="of 100 pushes, in each round")
    chosen = parser.parse_args(argv)
    table = interleave(variants(chosen.batches), chosen.rounds)
    print(table.markdown(COLUMNS))
    ours, theirs = (table.median(f"{client.name}, APNs, 200", "both_us") for client in (Ours, H2))
    if ours and theirs:
        print(f"\nh2 takes {theirs / ours:.0f} times the CPU for a push to APNs that is answered with 200.")
    sys.exit(bool(table.missing))


if __name__ == "__main__":
    main()
