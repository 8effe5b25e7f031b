"""`notifier watch`: a person's notifications as they arrive."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from notifier.cli.connect import UNREACHABLE, Failed, Interrupted, demo_endpoint, demo_folder, run, user_id
from notifier.cli.folder import AUDIENCE, KID

VARIABLE: Final = "NOTIFIER_TOKEN"
LIFE: Final = 3600  # seconds that a token of the demo's key is good for


@click.command()
@click.argument("user", callback=user_id)
@click.option(
    "--url", metavar="URL", help="The WebSocket, as wss://host/v1/websocket.  [default: the demo's]"
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Read the token from here, again whenever a new one is needed.",
)
@click.option("--from-start", is_flag=True, help="Begin with all that is in the inbox.")
@click.option("--json", "as_json", is_flag=True, help="Print every frame as the server sent it, one a line.")
@click.option("--count", metavar="N", type=click.IntRange(1), help="End after N notifications.")
@click.option(
    "--timeout", metavar="SECONDS", type=click.FloatRange(0, min_open=True), help="End after so long."
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing about the connection.")
def watch(
    user: str, url: str | None, token_file: Path | None, from_start: bool, as_json: bool, count: int | None,
    timeout: float | None, quiet: bool,
) -> None:  # fmt: skip
    """Follow the notifications of USER on a WebSocket, acknowledge them, and come back when the connection breaks.

    One line for each change: when, what, who, on what, and how many are unread. The token is read from --token-file or
    $NOTIFIER_TOKEN; beside a running demo it is minted with the demo's key. What was printed counts as received, not
    as seen.

    \b
    Examples:
      notifier watch 7
      notifier watch 7 --from-start --json | jq -r .kind
      notifier watch 7 --count 1 --timeout 10 && echo it works
      NOTIFIER_TOKEN=$(cat token) notifier watch 7 --url wss://push.example.com/v1/websocket
    \b
    Exit codes: 0 ended by --count or --timeout, 1 refused, or --timeout came before --count, 2 usage, 3 not reachable.
    """
    url = url or demo_endpoint("websocket")
    if url is None:
        raise Failed(
            f"no server to watch: there is no demo here ({demo_folder().endpoints}); give --url URL",
            UNREACHABLE,
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise click.BadParameter(f"{url!r} is not ws://host:port/path or wss://...", param_hint="--url")
    token = token_of(user, token_file)
    token()  # a fault here is one of usage, not of the connection

    async def work(reactor: Any) -> bool:
        from notifier.cli.follower import Follower
        from notifier.cli.listener import Listener

        follower = Follower(from_start, as_json)
        listener = Listener(reactor, url, token, follower, count, quiet)
        reactor.addSystemEventTrigger("before", "shutdown", listener.stop, Interrupted())
        timer = reactor.callLater(timeout, listener.stop) if timeout is not None else None
        try:
            await listener.follow()
        finally:
            if timer is not None and timer.active():
                timer.cancel()
        return count is None or follower.count >= count

    if not run(work):
        raise Failed(f"fewer than {count} notifications within {timeout:g} s")


def token_of(user: str, token_file: Path | None) -> Callable[[], str]:
    """Where the tokens of `user` come from: the file, the environment, or the key of the demo here.

    Calling it raises Failed when there is none.
    """
    if token_file is not None:
        return lambda: _from_file(token_file)
    given = os.environ.get(VARIABLE)
    if given:
        return lambda: given.strip()
    return lambda: _minted(user)


def _from_file(path: Path) -> str:
    try:
        found = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"--token-file {path}: {error}") from None
    if not found:
        raise Failed(f"--token-file {path}: there is no token in it")
    return found


def _minted(user: str) -> str:
    from notifier.edge.operator_key import mint

    key = demo_folder().pointed().key
    try:
        return mint(key.read_bytes(), KID, "EdDSA", user, AUDIENCE, LIFE, time.time())
    except OSError as error:
        raise Failed(
            f"no token: give --token-file FILE or set {VARIABLE}; and there is no demo here whose key could sign one "
            f"({key}: {error.strerror})"
        ) from None
    except ValueError as error:
        raise Failed(f"no token: {key}: {error}") from None
