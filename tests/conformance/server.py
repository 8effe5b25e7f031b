"""Plays the cases to a server: any, by its address, as its clients and producers would."""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.conformance.cases import Case, Closes, Connect, Delete, Hear, Leave, Message, Publish, Quiet, Say

PROTOCOL = "notifier.v1"


class Wrong(Exception):
    """What the server did wrong, at which step."""


@dataclass(frozen=True)
class Target:
    """The server under test.

    url      of its WebSocket
    token    gives a token for a person
    publish  takes an event, as docs/events.md describes it
    api      address of its HTTP API, or None
    """

    url: str
    token: Callable[[str], str]
    publish: Callable[[Message], None]
    api: str | None = None


def by_command(url: str, token: str, publish: str, api: str | None = None) -> Target:
    """token: a command that prints one for the person in place of {person}; publish: one that reads an event."""

    def mint(person: str) -> str:
        return _printed([word.replace("{person}", person) for word in shlex.split(token)], "").strip()

    def append(event: Message) -> None:
        _printed(shlex.split(publish), json.dumps(event) + "\n")

    return Target(url, mint, append, api)


def _printed(words: list[str], given: str) -> str:
    """What a command prints. Raises SystemExit with what it complains of: no case can be played without it."""
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


class Play:
    """One case on one server."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.person = f"conformance-{secrets.token_hex(6)}"
        self.kept: dict[str, Any] = {"token": target.token(self.person)}
        self.links: dict[str, ClientConnection] = {}
        self.open = ExitStack()
        self.acts: Mapping[type, Callable[[Any], None]] = {
            Connect: self._connect, Publish: self._publish, Hear: self._hear, Say: self._say,
            Closes: self._closes, Quiet: self._quiet, Leave: self._leave, Delete: self._delete,
        }  # fmt: skip

    def run(self, case: Case) -> None:
        """Raises Wrong at the first step that fails."""
        try:
            for at, step in enumerate(case.steps, 1):
                try:
                    self.acts[type(step)](step)
                except (Wrong, TimeoutError, ConnectionClosed, OSError) as fault:
                    raise Wrong(f"step {at}, {step}: {str(fault) or type(fault).__name__}") from fault
        finally:
            self.open.close()

    def _filled(self, value: Any) -> Any:
        """`value` with every "<name>" replaced by what was kept."""
        if isinstance(value, str) and value[:1] == "<" and value[-1:] == ">":
            return self.kept[value[1:-1]]
        if isinstance(value, Mapping):
            return {name: self._filled(member) for name, member in value.items()}
        return [self._filled(one) for one in value] if isinstance(value, list) else value

    def _connect(self, step: Connect) -> None:
        token = self.kept["token"] if step.token == "good" else step.token
        place, url, offered = self._filled(step.place), self.target.url, [PROTOCOL]
        if step.how == "bearer":
            url += f"?{urllib.parse.urlencode(place)}" if place else ""
            offered.append(f"bearer.{token}")
        subprotocols = [Subprotocol(one) for one in offered]
        made = connect(url, subprotocols=subprotocols, open_timeout=10, close_timeout=2)
        link = self.links[step.name] = self.open.enter_context(made)
        if link.subprotocol != PROTOCOL:
            raise Wrong(f"the server chose the subprotocol {link.subprotocol}, not {PROTOCOL}")
        if step.how == "message":
            link.send(json.dumps({"type": "auth", "token": token, **place}))

    def _publish(self, step: Publish) -> None:
        self.target.publish({
            "type": "unlike" if step.undo else "like", "to": [self.person],
            "actor": {"id": "conformance", "name": "ana"}, "object": {"type": "photo", "id": step.photo},
        })  # fmt: skip

    def _hear(self, step: Hear) -> None:
        try:
            said = json.loads(self.links[step.on].recv(timeout=step.seconds))
        except TimeoutError:
            raise Wrong("nothing was heard") from None
        for name, wanted in step.message.items():
            if name not in said:
                raise Wrong(f"{name} is missing in {said}")
            if not self._fits(said[name], wanted):
                raise Wrong(f"{name} is {said[name]!r} in {said}")
        self.kept |= {name: said[member] for name, member in step.keep.items()}

    def _fits(self, said: Any, wanted: Any) -> bool:
        if callable(wanted):
            return bool(wanted(said))
        return type(said) is type(filled := self._filled(wanted)) and bool(said == filled)

    def _say(self, step: Say) -> None:
        message = step.message
        data = message if isinstance(message, str | bytes) else json.dumps(self._filled(message))
        try:
            for _ in range(step.times):
                self.links[step.on].send(data)
        except ConnectionClosed:
            pass  # what a limit is for: the step `Closes` says how it must end

    def _closes(self, step: Closes) -> None:
        link, end = self.links[step.on], time.monotonic() + step.seconds
        try:
            while True:
                link.recv(timeout=max(0.0, end - time.monotonic()))
        except TimeoutError:
            raise Wrong("it stays open") from None
        except ConnectionClosed:
            if link.close_code != step.code:
                raise Wrong(f"closed with {link.close_code} {link.close_reason!r}") from None

    def _quiet(self, step: Quiet) -> None:
        try:
            said = self.links[step.on].recv(timeout=step.seconds)
        except TimeoutError:
            return
        raise Wrong(f"heard {said!r}")

    def _leave(self, step: Leave) -> None:
        self.links[step.on].close()

    def _delete(self, step: Delete) -> None:
        if self.target.api is None:
            raise Wrong("the address of the HTTP API is not known")
        row = urllib.parse.quote(self._filled(step.id), safe="")
        headers = {"Authorization": f"Bearer {self.kept['token']}"}
        url = f"{self.target.api.rstrip('/')}/v1/inbox/{row}"
        with urllib.request.urlopen(
            urllib.request.Request(url, method="DELETE", headers=headers), timeout=10
        ):
            pass


def play(case: Case, target: Target) -> None:
    """Plays one case with a person of its own. Raises Wrong."""
    Play(target).run(case)
