"""`notifier device`: whose phones get pushes: add, list, remove; carry all of them from one installation to another."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, TypeVar

import click

from notifier.cli.connect import Client, Failed, printable, redis_options, setup_of, user_id, with_redis
from notifier.cli.progress import Progress, progress
from notifier.config import Config

if TYPE_CHECKING:
    from notifier.core.devices import App
    from notifier.core.model import Device
    from notifier.edge.device_store import RedisDevices
    from notifier.edge.redis import Script

T = TypeVar("T")

PLATFORMS: Final = ("apns", "fcm", "gcm")
ENVIRONMENTS: Final = ("production", "sandbox")
AT_ONCE: Final = 50  # devices of an import that are under way
LONGEST: Final = 8192  # bytes of a line


@click.group(short_help="Add, list, remove, export or import devices.")
def device() -> None:
    """Look after devices: which phones a person's pushes go to.

    Apps register their devices themselves (PUT /v1/devices/TOKEN); this is for what they cannot do.

    \b
    Examples:
      notifier device ls 7
      notifier device add 7 --platform apns --app photos <token.txt
      notifier device rm 7 vtUFkKJ0hZqqk7xkQd0S7A
      notifier device export devices.jsonl
      notifier device import devices.jsonl
    \b
    Exit codes: 0 done, 1 some were refused or not there, 2 usage, 3 Redis not reachable.
    """


class Scripted(NamedTuple):
    """A client that runs scripts as the store does. By their text: a command asks a few times, a daemon for ever."""

    client: Client

    def call(self, *args: Any) -> Any:
        return self.client.call(*args)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return await self.client.call("EVAL", script.text, len(keys), *keys, *args)


def _with_devices(
    redis: str | None,
    config_file: Path | None,
    work: Callable[[RedisDevices, Config], Coroutine[Any, Any, T]],
) -> T:
    async def run(reactor: Any, client: Client, config: Config) -> T:
        from notifier.edge.device_store import RedisDevices
        from notifier.edge.store import Rules, Scripts

        shards, buckets = await setup_of(client, config)
        rules = Rules(shards=shards, buckets=buckets, devices=config.push.devices_per_user)
        calls: Any = Scripted(client)
        return await work(RedisDevices(calls, Scripts(), rules), config)

    return with_redis(redis, config_file, run)


def _apps(config: Config, named: str) -> dict[str, App]:
    """The apps of the configuration; without any it is not known which there are, and the one that is named will do."""
    from notifier.core.devices import App
    from notifier.phones import apps_of

    return apps_of(config) or {named: App(frozenset(("apns", "fcm")))}


# -- one person


@device.command()
@click.argument("user", callback=user_id)
@click.option("--platform", type=click.Choice(PLATFORMS), required=True, help="gcm is the older name of fcm.")
@click.option("--app", required=True, metavar="APP", help="Id of the app in the configuration.")
@click.option("--environment", type=click.Choice(ENVIRONMENTS), help="Apple's.  [default: the app's]")
@click.option("--locale", default="", metavar="TAG", help="Language of the phone, as pt-BR.")
@redis_options
def add(
    user: str, platform: str, app: str, environment: str | None, locale: str, redis: str | None,
    config_file: Path | None,
) -> None:  # fmt: skip
    """Register a device of USER; its token is read from stdin, for arguments can be seen by everybody here.

    The token is this person's from then on and nobody else's.
    """
    token = sys.stdin.read(LONGEST).strip()
    told = {"platform": platform, "app": app, "locale": locale}
    if environment is not None:
        told["environment"] = environment

    async def work(devices: RedisDevices, config: Config) -> Device:
        from notifier.core.devices import Refused, register

        made = register(token, json.dumps(told).encode(), _apps(config, app))
        if isinstance(made, Refused):
            raise Failed(f"{made.field or 'the device'}: {made.detail}")
        if not await devices.register(user, made):
            raise Failed("somebody else has registered or removed this device at the same time")
        return made

    click.echo(_with_devices(redis, config_file, work).id)


@device.command()
@click.argument("user", callback=user_id)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as `export` writes them.")
@redis_options
def ls(user: str, as_json: bool, redis: str | None, config_file: Path | None) -> None:
    """List the devices of USER, those registered longest ago first. Tokens are shown with --json alone."""

    async def work(devices: RedisDevices, config: Config) -> Sequence[Device]:
        return await devices.of(user)

    found = _with_devices(redis, config_file, work)
    for one in found:
        click.echo(_line(user, one) if as_json else _row(one))
    if not found and not as_json:
        click.echo(f"{user} has no devices", err=True)


def _row(one: Device) -> str:
    from notifier.core.payload import iso

    facts = (one.environment, one.locale, one.time_zone, one.app_version)
    told = " ".join(printable(fact) for fact in facts if fact)
    return f"{one.id}  {one.provider:<4}  {one.app}  {iso(one.registered)}  {told}"


@device.command()
@click.argument("user", callback=user_id)
@click.argument("ids", metavar="DEVICE...", nargs=-1, required=True)
@redis_options
def rm(user: str, ids: tuple[str, ...], redis: str | None, config_file: Path | None) -> None:
    """Take devices, by the ids that `ls` shows, off the list of USER. They are told nothing any more."""

    async def work(devices: RedisDevices, config: Config) -> list[str]:
        return [one for one in ids if not await devices.unregister(user, one)]

    missing = _with_devices(redis, config_file, work)
    for one in missing:
        click.echo(f"{printable(one)} is no device of {user}", err=True)
    sys.exit(1 if missing else 0)


# -- all


def _line(user: str, one: Device) -> str:
    """A device as `export` writes it and `import` reads it."""
    told = {
        "user": user, "token": one.token, "platform": one.provider, "app": one.app, "environment": one.environment,
        "registered": one.registered, "locale": one.locale, "time_zone": one.time_zone,
        "app_version": one.app_version,
    }  # fmt: skip
    return json.dumps({name: value for name, value in told.items() if value != ""})


@device.command(name="export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@redis_options
def export_(file: str, redis: str | None, config_file: Path | None) -> None:
    """Write all devices to FILE (default: stdout), one JSON object a line; a FILE is made for your eyes only.

    With tokens in it: whoever has them and your keys can write to these phones.
    """
    out = sys.stdout.buffer if file == "-" else _private(Path(file))

    async def work(devices: RedisDevices, config: Config) -> tuple[int, int]:
        seen: set[str] = set()
        newer: set[str] = set()
        with out if file != "-" else _left_open(out) as target, progress("devices", "devices", None) as bar:
            after, first = "", True
            while first or after:
                page = await devices.page(after)
                fresh = [(user, one) for user, one in page.pairs if one.id not in seen]
                seen.update(one.id for _, one in fresh)  # a scan may come by twice
                newer.update(page.newer)
                target.write(b"".join(f"{_line(user, one)}\n".encode() for user, one in fresh))
                bar.advance(1, len(fresh))
                after, first = page.after, False
            target.flush()
        return len(seen), len(newer)

    written, newer = _with_devices(redis, config_file, work)
    click.echo(f"{written} devices", err=True)
    if newer:
        told = f"{newer} more were registered by a newer version of notifier: export them with that one"
        click.echo(told, err=True)
        sys.exit(1)


def _private(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise Failed(f"{path} is there already: remove it, or name another file", 2) from None
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}", 2) from None


class _left_open:
    """A stream that is not ours to close."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def __enter__(self) -> BinaryIO:
        return self.stream

    def __exit__(self, *_: object) -> None:
        self.stream.flush()


class Imported(NamedTuple):
    """What an import came to: devices that are registered now, those that had to give way, lines refused."""

    done: int
    newer: int
    refused: int


@device.command(name="import")
@click.argument("file", type=click.File("rb"))
@redis_options
def import_(file: BinaryIO, redis: str | None, config_file: Path | None) -> None:
    """Register the devices in FILE (- = stdin), as `export` writes them; again, it changes nothing.

    A device that somebody has registered since stays theirs, and a person who has newer ones enough keeps those. A line
    that is not a device is told and left out.
    """
    length = None if file is sys.stdin.buffer else _size(file)

    async def work(devices: RedisDevices, config: Config) -> Imported:
        with progress("devices", "devices", length) as bar:
            return await _import(devices, config, file, bar)

    came = _with_devices(redis, config_file, work)
    told = f"{came.done} devices imported, {came.newer} superseded, {came.refused} refused"
    click.echo(told, err=True)
    sys.exit(1 if came.refused else 0)


def _size(file: BinaryIO) -> int | None:
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


async def _import(devices: RedisDevices, config: Config, file: BinaryIO, bar: Progress) -> Imported:
    from twisted.internet.defer import Deferred, gatherResults

    done = newer = refused = 0
    number = 0
    while lines := list(_some(file)):
        under_way = []
        for line in lines:
            number += 1
            user, made = _read(line, config)
            if isinstance(made, str):
                refused += 1
                bar.say(f"line {number}: {made}")
            elif made is not None:
                under_way.append(Deferred.fromCoroutine(devices.restore(user, made)))
        restored = await gatherResults(under_way, consumeErrors=True)
        done, newer = done + sum(restored), newer + len(restored) - sum(restored)
        bar.advance(sum(map(len, lines)), len(restored))
    return Imported(done, newer, refused)


def _some(file: BinaryIO) -> Iterator[bytes]:
    for _ in range(AT_ONCE):
        line = file.readline(LONGEST)
        if not line:
            return
        yield line


def _read(line: bytes, config: Config) -> tuple[str, Device | str | None]:
    """(user, device) of a line; None for an empty one, and words, without the token, for what is neither."""
    from notifier.core.devices import Refused, register
    from notifier.core.tokens import USER

    if not line.strip():
        return "", None
    try:
        told = json.loads(line)
        user, token, at = told.pop("user"), told.pop("token"), told.pop("registered", 0)
    except (ValueError, AttributeError, KeyError, RecursionError, TypeError):
        return "", "expected a JSON object with user, token, platform and app"
    if not isinstance(user, str) or USER.fullmatch(user) is None:
        return "", "user: expected 1 to 64 characters of A-Z a-z 0-9 _ . -"
    if not isinstance(token, str) or type(at) is not int or not 0 <= at < 2**53:
        return "", "expected token as text, and registered as milliseconds since 1970"
    app = told.get("app")
    made = register(token, json.dumps(told).encode(), _apps(config, app if isinstance(app, str) else ""), at)
    return user, f"{made.field or 'the device'}: {made.detail}" if isinstance(made, Refused) else made
