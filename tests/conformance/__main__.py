"""`python -m tests.conformance server URL ...` and `python -m tests.conformance client COMMAND`: one line a case."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from tests.conformance import fake_server, server
from tests.conformance.cases import CASES
from tests.conformance.scenarios import SCENARIOS
from tests.conformance.streams import STREAMS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    to_server = parts.add_parser("server", help="hold a server to the protocol")
    to_server.add_argument("url", help="of its WebSocket, as wss://push.example.com/v1/websocket")
    to_server.add_argument("--token-command", required=True, help="prints a token for {person}")
    to_server.add_argument("--publish-command", required=True, help="reads one event as a line of JSON")
    to_server.add_argument(
        "--api", help="address of its HTTP API; without it the cases that need it are left out"
    )
    to_client = parts.add_parser("client", help="hold a client to the protocol")
    to_client.add_argument("command", help="its program; the server's address is added as the last argument")
    to_client.add_argument(
        "--streams",
        action="store_true",
        help="also hold it to event streams; the address of the HTTP API is added after the other",
    )
    for part in (to_server, to_client):
        part.add_argument("-k", dest="only", default="", help="only cases with this text in their name")
    return parser.parse_args()


def tell(names: Iterable[tuple[str, str]], play: Callable[[str], None]) -> int:
    """Plays and prints; how many failed."""
    failed = 0
    for name, clause in names:
        try:
            play(name)
        except (server.Wrong, fake_server.Wrong) as wrong:
            failed += 1
            sys.stdout.write(f"not ok  {name}  [{clause}]\n        {wrong}\n")
        else:
            sys.stdout.write(f"ok      {name}\n")
        sys.stdout.flush()
    return failed


def main() -> int:
    """0: all held; 1: some did not."""
    given = arguments()
    if given.part == "client":
        every = (*SCENARIOS, *STREAMS) if given.streams else SCENARIOS
        stories = {story.name: story for story in every if given.only in story.name}
        chosen = [(name, story.clause) for name, story in stories.items()]
        failed = tell(chosen, lambda name: fake_server.play(stories[name], given.command))
    else:
        target = server.by_command(given.url, given.token_command, given.publish_command, given.api)
        cases = {case.name: case for case in CASES if given.only in case.name}
        chosen = [(name, case.clause) for name, case in cases.items() if target.api or not case.needs_api]
        failed = tell(chosen, lambda name: server.play(cases[name], target))
    sys.stdout.write(f"{len(chosen) - failed} of {len(chosen)} hold\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
