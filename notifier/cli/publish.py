"""`notifier publish`: events from a file, from stdin or from options to the front door."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from notifier.cli.connect import (
    UNREACHABLE,
    USAGE,
    Client,
    Failed,
    configured,
    redis_options,
    with_redis,
)
from notifier.cli.lines import CHUNK, Checker, Line, Lines, Options, Tally, checker_of, fault_of, refuse
from notifier.cli.progress import Progress, progress
from notifier.config import Config

# --- What to publish -----------------------------------------------------------------------------------


def event_of(fields: dict[str, Any]) -> bytes:
    """One event as JSON, from options. Raises UsageError."""
    import msgspec

    if not fields["kind"]:
        given = [name for name, value in fields.items() if value]
        if given:
            raise click.UsageError(f"--{given[0]} describes an event and needs --type")
        return b""
    if not fields["actor"] or not fields["to"]:
        raise click.UsageError("--type needs --actor USER and --to USER as well")
    actor = {"id": fields["actor"]} | ({"name": fields["name"]} if fields["name"] else {})
    event: dict[str, Any] = {"type": fields["kind"], "actor": actor, "to": list(fields["to"])}
    event |= {name: fields[name] for name in ("id", "time", "text") if fields[name] is not None}
    if fields["object"]:
        kind, slash, thing = fields["object"].partition("/")
        if not slash:
            raise click.UsageError(f"--object {fields['object']!r} is not TYPE/ID, as in photo/99")
        event["object"] = {"type": kind, "id": thing}
    return msgspec.json.encode(event)


@contextmanager
def opened(file: str) -> Iterator[tuple[int, int | None]]:
    """(file descriptor, bytes left to read or None) of a file or "-"."""
    try:
        descriptor = 0 if file == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        state = os.fstat(descriptor)
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}", USAGE) from None
    try:
        if stat.S_ISDIR(state.st_mode):
            raise Failed(f"cannot read {file}: it is a folder", USAGE)
        plain = stat.S_ISREG(state.st_mode)
        yield descriptor, state.st_size - os.lseek(descriptor, 0, os.SEEK_CUR) if plain else None
    except BrokenPipeError:
        raise  # that is stdout
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from None
    finally:
        if descriptor:
            os.close(descriptor)


# --- The command ---------------------------------------------------------------------------------------


@click.command()
@click.argument("file", required=False)
@redis_options
@click.option("--check", is_flag=True, help="Only check every line; nothing is sent, no Redis is needed.")
@click.option("--force", is_flag=True, help="Send without checking; the server buries what is no event.")
@click.option("--ids", is_flag=True, help="Print the stream id of each accepted event on stdout.")
@click.option(
    "--no-wait", is_flag=True, help="Do not wait while the server asks producers to (notifier:pressure)."
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when all went well; no progress bar.")
@click.option(
    "--type", "kind", metavar="TYPE", help="Make one event instead: follow, like, comment, unlike..."
)
@click.option("--actor", metavar="USER", help="Who did it.")
@click.option("--name", metavar="NAME", help="The actor's name, for display.")
@click.option("--to", metavar="USER", multiple=True, help="Who should hear of it; may be given again.")
@click.option("--object", metavar="TYPE/ID", help="What it was done to, as in photo/99.")
@click.option("--text", metavar="TEXT", help="The actor's words.")
@click.option("--id", metavar="ID", help="Names the action, so that a repeat counts once; needs --time.")
@click.option("--time", metavar="TIME", help="When it happened (RFC 3339).")
def publish(
    file: str | None, redis: str | None, config_file: Path | None, check: bool, force: bool, ids: bool, no_wait: bool,
    quiet: bool, **fields: Any,
) -> None:  # fmt: skip
    """Append events to the front door: one JSON object a line from FILE or stdin (-), or one event from options.

    Every line is checked first as the server does it; bad ones are told with line number and reason, good ones are
    sent all the same. An event is accepted when Redis has answered: what was not accepted is named at the end and
    is still yours. While the server is behind its limit (notifier:pressure) the command waits.

    \b
    Examples:
      notifier publish --type like --actor 42 --to 7 --object photo/99
      notifier publish events.jsonl
      zcat events.jsonl.gz | notifier publish --ids > ids.txt
      notifier publish --check events.jsonl
      notifier publish --config notifier.toml events.jsonl
    \b
    Exit codes: 0 all accepted, 1 some were not, 2 usage, 3 Redis not reachable or lost on the way.
    """
    event = event_of(fields)
    if file is None and not event:
        if sys.stdin.isatty():
            raise click.UsageError(
                "give a FILE of events, - for stdin, or one event with --type, --actor and --to"
            )
        file = "-"
    if file is not None and event:
        raise click.UsageError("give either FILE or --type, not both")
    if check and force:
        raise click.UsageError("--check and --force exclude each other")
    options, tally = Options(force, ids, not no_wait), Tally()
    done = "in order" if check else "accepted"
    try:
        if check:
            _check_all(file, event, configured(redis, config_file), tally)
        else:
            _send_all(file, event, redis, config_file, options, tally, quiet)
    finally:
        if not (quiet and tally.complete):
            tally.report(done, single=bool(event))
    if not tally.complete:
        raise click.exceptions.Exit(UNREACHABLE if tally.lost else 1)


def _check_all(file: str | None, event: bytes, config: Config, tally: Tally) -> None:
    checker = checker_of(config)
    if file is None:
        _check_lines([Line(1, event)], checker, tally, Progress("lines"), single=True)
        tally.whole = True
        return
    lines = Lines()
    with opened(file) as (descriptor, size), progress("checking", "lines", size) as bar:
        more = True
        while more:
            data = os.read(descriptor, CHUNK)
            found, more = lines.feed(data), bool(data)
            _check_lines(found, checker, tally, bar, single=False)
            bar.advance(len(data), len(found))
    tally.whole = True


def _check_lines(lines: list[Line], checker: Checker, tally: Tally, bar: Progress, single: bool) -> None:
    for line in lines:
        if fault := fault_of(line, checker, force=False):
            refuse(line, fault, tally, bar, single)
        else:
            tally.good += 1


def _send_all(
    file: str | None,
    event: bytes,
    redis: str | None,
    config_file: Path | None,
    options: Options,
    tally: Tally,
    quiet: bool,
) -> None:
    async def send(reactor: Any, client: Client, config: Config) -> None:
        from notifier.cli.appender import Appender, chunks

        appender = Appender(reactor, client, checker_of(config), options, tally)
        if file is None:
            await appender.all(_once(event + b"\n"), Progress("events"), single=True)
            return
        with opened(file) as (descriptor, size), progress("publishing", "events", size, quiet) as bar:
            await appender.all(chunks(reactor, descriptor), bar, single=False)

    with_redis(redis, config_file, send)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
