"""`notifier dlq`: dead letters, the events that could not be applied: list, show, retry, drop."""

from __future__ import annotations

import json
import shutil
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from notifier.cli.connect import Client, Failed, printable, redis_options, setup_of, with_redis
from notifier.cli.progress import Progress, progress
from notifier.config import Config

if TYPE_CHECKING:
    from notifier.edge.letters import DeadLetter, Letters, Name

T = TypeVar("T")

BATCH: Final = 100  # letters between two steps of the progress bar
LIMIT: Final = 50


@click.group(short_help="List, show, retry or drop dead letters.")
def dlq() -> None:
    """Look after dead letters: events that could not be applied, each with the reason and its raw bytes.

    They are kept for 14 days, 10 000 of each reason, unless configured otherwise ([dead_letters]).

    \b
    Examples:
      notifier dlq ls --count
      notifier dlq show 0/schema/1764000000000-0
      notifier dlq retry --reason handover
      notifier dlq drop --reason not_json --yes
    \b
    Exit codes: 0 done, 1 some were not there or refused, 2 usage, 3 Redis not reachable.
    """


def _reason(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from notifier.edge.letters import REASONS

    if value is not None and value not in REASONS:
        raise click.BadParameter(f"{value!r} is not one of: {', '.join(REASONS)}")
    return value


def _names(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> list[Name]:
    from notifier.edge.letters import Name

    try:
        return [Name.parse(text) for text in value]
    except ValueError as error:
        raise click.BadParameter(f"{error}; `notifier dlq ls` lists them") from None


reason_option = click.option(
    "--reason", metavar="REASON", callback=_reason, help="Only those of this reason."
)
names_argument = click.argument("names", nargs=-1, metavar="[ID]...", callback=_names)


def _with_letters(
    redis: str | None, config_file: Path | None, work: Callable[[Letters], Coroutine[Any, Any, T]]
) -> T:
    async def begin(reactor: Any, client: Client, config: Config) -> T:
        from notifier.edge.letters import Letters

        return await work(Letters(client.call, *await setup_of(client, config)))

    return with_redis(redis, config_file, begin)


def _reasons(reason: str | None) -> Sequence[str]:
    from notifier.edge.letters import REASONS

    return REASONS if reason is None else (reason,)


# --- ls, show ------------------------------------------------------------------------------------------


@dlq.command("ls")
@redis_options
@reason_option
@click.option(
    "--limit", metavar="N", type=click.IntRange(0), default=LIMIT, show_default=True, help="At most; 0: all."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--count", is_flag=True, help="How many there are of each reason.")
def list_(
    redis: str | None, config_file: Path | None, reason: str | None, limit: int, as_json: bool, count: bool
) -> None:
    """List dead letters, the newest first.

    With --json an object has id, at, reason, detail, source, to and raw: the bytes the producer appended, as text, or
    in base64 with "encoding": "base64" when they are not UTF-8.

    \b
    Examples:
      notifier dlq ls
      notifier dlq ls --count
      notifier dlq ls --reason schema --limit 0 --json | jq -r .detail | sort | uniq -c
      notifier dlq ls --json | jq -r 'select(.source < "1764") | .id' | xargs notifier dlq retry
    """

    async def work(letters: Letters) -> None:
        if count:
            _print_counts(await letters.counts(_reasons(reason)), as_json)
            return
        shown = 0
        async for letter in letters.newest(_reasons(reason)):
            click.echo(
                json.dumps(as_object(letter), ensure_ascii=False)
                if as_json
                else _row(letter, first=not shown)
            )
            shown += 1
            if shown == limit:
                break
        if not shown:
            click.echo("no dead letters" + (f" of reason {reason}" if reason else ""), err=True)

    _with_letters(redis, config_file, work)


def _print_counts(counts: dict[str, int], as_json: bool) -> None:
    for name, number in sorted(counts.items(), key=lambda item: -item[1]):
        click.echo(json.dumps({"reason": name, "count": number}) if as_json else f"{number:>9}  {name}")
    if not counts:
        click.echo("no dead letters", err=True)


def as_object(letter: DeadLetter) -> dict[str, Any]:
    """A letter as `ls --json` shows it."""
    found = {
        "id": str(letter.name), "at": _time(letter.at), "reason": letter.name.reason, "detail": letter.detail,
        "source": letter.source, "to": letter.to or None,
    }  # fmt: skip
    try:
        return found | {"raw": letter.raw.decode()}
    except UnicodeDecodeError:
        return found | {"raw": b64encode(letter.raw).decode(), "encoding": "base64"}


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _row(letter: DeadLetter, first: bool) -> str:
    # Wide enough for every name, so that rows can be printed as they come.
    row = f"{letter.name!s:<42}  {_time(letter.at)}  {printable(letter.detail)}"
    if sys.stdout.isatty():
        row = row[: shutil.get_terminal_size().columns]
    return f"{'ID':<42}  {'BURIED':<24}  WHY\n{row}" if first else row


@dlq.command()
@click.argument("names", nargs=-1, required=True, metavar="ID...", callback=_names)
@click.option("--raw", is_flag=True, help="Only the bytes that the producer appended, and a line feed.")
@redis_options
def show(names: list[Name], raw: bool, redis: str | None, config_file: Path | None) -> None:
    """Show dead letters in full.

    \b
    Examples:
      notifier dlq show 0/schema/1764000000000-0
      notifier dlq show --raw 0/schema/1764000000000-0 | sed s/lke/like/ | notifier publish
    """

    async def work(letters: Letters) -> int:
        missing = 0
        for name in names:
            letter = await letters.get(name)
            if letter is None:
                click.echo(_gone(name), err=True)
                missing += 1
            elif raw:
                click.echo(letter.raw)
            else:
                click.echo(_in_full(letter))
        return missing

    if _with_letters(redis, config_file, work):
        raise click.exceptions.Exit(1)


def _gone(name: Name) -> str:
    return f"{name}: not there; it was retried, dropped, or went by its age or number ([dead_letters])"


def _in_full(letter: DeadLetter) -> str:
    lines = [
        ("id", str(letter.name)),
        ("buried", _time(letter.at)),
        ("reason", letter.name.reason),
        ("why", letter.detail),
    ]
    lines += [("source", letter.source), ("entry", letter.entry), ("to", letter.to or "everybody it names")]
    head = "".join(f"{name + ':':<9}{printable(value)}\n" for name, value in lines)
    try:
        body = json.dumps(json.loads(letter.raw), indent=2, ensure_ascii=False).splitlines()
    except (ValueError, RecursionError):
        body = [letter.raw.decode("utf-8", "backslashreplace")]
    return head + "\n".join(map(printable, body)) + "\n"


# --- retry, drop ---------------------------------------------------------------------------------------


def _chosen(names: list[Name], reason: str | None, every: bool) -> None:
    if sum((bool(names), reason is not None, every)) != 1:
        raise click.UsageError("name letters by ID, or give --reason REASON, or --all")


async def _pick(
    letters: Letters, names: list[Name], reason: str | None, missing: list[Name]
) -> AsyncIterator[DeadLetter]:
    """The letters that are meant, in the order they were buried (or named)."""
    if not names:
        async for letter in letters.oldest(_reasons(reason)):
            yield letter
    for name in names:
        found = await letters.get(name)
        if found is None:
            missing.append(name)
        else:
            yield found


async def _in_batches(picked: AsyncIterator[DeadLetter]) -> AsyncIterator[list[DeadLetter]]:
    batch: list[DeadLetter] = []
    async for letter in picked:
        batch.append(letter)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _over(
    letters: Letters,
    names: list[Name],
    reason: str | None,
    label: str,
    step: Callable[[list[DeadLetter], Progress], Coroutine[Any, Any, int]],
) -> tuple[int, int]:
    """(how many were done, how many were not) of the letters that are meant, a batch at a time."""
    missing: list[Name] = []
    total = len(names) or sum((await letters.counts(_reasons(reason))).values())
    done = failed = 0
    with progress(label, "letters", total) as bar:
        async for batch in _in_batches(_pick(letters, names, reason, missing)):
            well = await step(batch, bar)
            done, failed = done + well, failed + len(batch) - well
            bar.advance(len(batch), well)
        for name in missing:
            bar.say(_gone(name))
    return done, failed + len(missing)


@dlq.command()
@names_argument
@reason_option
@click.option("--all", "every", is_flag=True, help="All there are.")
@click.option(
    "--as-new", is_flag=True, help="Without their id and time: as events that happen now (for stale ones)."
)
@redis_options
def retry(
    names: list[Name],
    reason: str | None,
    every: bool,
    as_new: bool,
    redis: str | None,
    config_file: Path | None,
) -> None:
    """Put dead letters back through the front door, each exactly once, in the order they were buried.

    What was wrong should be mended before: an event that fails again is buried again. A letter for one person (reason
    handover) goes to that person alone, under the id and time that the event had.

    \b
    Examples:
      notifier dlq retry 0/unknown_type/1764000000000-0
      notifier dlq retry --reason handover
      notifier dlq retry --reason stale --as-new
    """
    _chosen(names, reason, every)

    async def work(letters: Letters) -> tuple[int, int]:
        async def step(batch: list[DeadLetter], bar: Progress) -> int:
            return await _retry_batch(letters, batch, as_new, bar)

        return await _over(letters, names, reason, "retrying", step)

    done, failed = _with_letters(redis, config_file, work)
    _end("put back through the front door", done, failed)


async def _retry_batch(letters: Letters, batch: list[DeadLetter], as_new: bool, bar: Progress) -> int:
    from notifier.edge.letters import NOT_EVENTS

    events = [letter for letter in batch if letter.name.reason not in NOT_EVENTS]
    for letter in batch:
        if letter.name.reason in NOT_EVENTS:
            bar.say(f"{letter.name} holds no event; it can only be shown and dropped")
    made = await letters.retry(events, as_new)
    for letter, entry in zip(events, made, strict=True):
        if not entry:
            bar.say(_gone(letter.name))
    return sum(map(bool, made))


@dlq.command()
@names_argument
@reason_option
@click.option("--all", "every", is_flag=True, help="All there are.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@redis_options
def drop(
    names: list[Name], reason: str | None, every: bool, yes: bool, redis: str | None, config_file: Path | None
) -> None:
    """Remove dead letters for good. Asks first; where nobody can be asked it needs --yes.

    \b
    Examples:
      notifier dlq drop 0/schema/1764000000000-0 --yes
      notifier dlq drop --reason not_json
      notifier dlq drop --all --yes
    """
    _chosen(names, reason, every)
    which = f"{len(names)} named here" if names else f"all of reason {reason}" if reason else "all there are"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(
                f"this removes dead letters for good ({which}) and nobody can be asked: give --yes"
            )
        click.confirm(f"Remove dead letters for good ({which})?", abort=True, err=True)

    async def work(letters: Letters) -> tuple[int, int]:
        async def step(batch: list[DeadLetter], bar: Progress) -> int:
            return sum(await letters.drop([letter.name for letter in batch]))

        return await _over(letters, names, reason, "dropping", step)

    done, failed = _with_letters(redis, config_file, work)
    _end("removed", done, failed)


def _end(what: str, done: int, failed: int) -> None:
    click.echo(f"{done} dead letter{'s' * (done != 1)} {what}", err=True)
    if failed:
        raise Failed(f"{failed} {'was' if failed == 1 else 'were'} not, see above")
