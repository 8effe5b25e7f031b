"""A self-hosted gateway that speaks the JSON of GCM, with the phones of a sandbox behind it."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import time
from typing import Any, Final

from twisted.web.resource import Resource
from twisted.web.server import Site

from notifier.edge.gcm import Gcm
from notifier.sandbox.exchange import Answer
from notifier.sandbox.phones import Phones, Push
from tests.edge.http2.world import reactor

KEY: Final = "5ecret-server-key"


class Gateway(Resource):
    """Delivers; but what names `about` is answered by `said`: a whole response, or a word for this one token."""

    isLeaf = True

    def __init__(self, phones: Phones) -> None:
        super().__init__()
        self.phones = phones
        self.about = ""
        self.said: Answer | str = ""

    def render_POST(self, request: Any) -> bytes:
        asked = json.loads(request.content.read())
        tokens = asked.get("registration_ids") or [asked["to"]]
        about = bool(self.about) and any(self.about in token for token in tokens)
        if about and isinstance(self.said, Answer):
            request.setResponseCode(self.said.status)
            for name, value in self.said.fields.items():
                request.setHeader(name, value)
            return self.said.body
        results = [self._result(token, asked) for token in tokens]
        return json.dumps({"multicast_id": 1, "results": results}).encode()

    def _result(self, token: str, asked: dict[str, Any]) -> dict[str, str]:
        if self.about and self.about in token and self.said:
            return {"error": str(self.said)}
        data, shown = asked["data"], asked["notification"]
        said = Push(f"{data['nid']}/{data['seq']}", shown["tag"], time.time(), text=shown["body"], data=data)
        self.phones.take(token, "android", said)
        return {"message_id": "0:1"}

    def listen(self) -> Any:
        return reactor.listenTCP(0, Site(self), interface="127.0.0.1")

    @staticmethod
    def client(port: Any) -> Gcm:
        """Our side of it."""
        return Gcm(reactor, "demo", f"http://127.0.0.1:{port.getHost().port}/send", KEY, time.time)
