"""`notifier doctor`: checks what a server depends on, before it is needed."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import click

from notifier.cli.connect import (
    USAGE,
    Client,
    Failed,
    demo_endpoint,
    demo_folder,
    printable,
    redis_options,
    run,
    setup_of,
    with_redis,
)
from notifier.config import App, Config, ConfigError, load

if TYPE_CHECKING:
    from notifier.core.lanes import Lane
    from notifier.core.model import Outcome

Word = Literal["ok", "warn", "FAIL"]

WARN_DAYS: Final = 30
DAY: Final = 86_400
SECONDS: Final = 30.0  # for one provider to answer
# No device has this token, so nobody is disturbed; that Apple says so proves key, team and topic.
NOBODY: Final = "0" * 64
# As long as a real one. With validate_only nothing is delivered, whatever Google thinks of it.
NOBODY_FCM: Final = "notifier-doctor:APA91b" + "0" * 120


class Finding(NamedTuple):
    """One line: how it is, of which app and provider, and what."""

    word: Word
    lane: str
    what: str


@click.group(short_help="Check what a server depends on.")
def doctor() -> None:
    """Check what a server depends on, before it is needed.

    \b
    Example:
      notifier doctor providers --config /etc/notifier/notifier.toml
    """


@doctor.command()
@click.option(
    "--config", "config_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration of the server.  [default: that of the demo that runs here]",
)  # fmt: skip
@click.option("--app", metavar="APP", help="Only this app.")
@click.option("--offline", is_flag=True, help="Look at the files alone; ask nobody.")
def providers(config_file: Path | None, app: str | None, offline: bool) -> None:
    """Check the files that Apple and Google gave, then ask both whether they take them. No phone is disturbed.

    Offline: does the key parse, when does the certificate end and is it for the app's topic, is the clock believable.
    Online: FCM validates a message without delivering it; APNs gets a push to a token of zeros, and that it knows no
    such device proves key, team and topic.

    \b
    Examples:
      notifier doctor providers --config /etc/notifier/notifier.toml
      notifier doctor providers --config notifier.toml --app photos --offline
    \b
    Exit codes: 0 all is well (or only warnings), 1 something is wrong, 2 usage.
    """
    config = _config(config_file)
    if app is not None and app not in config.apps:
        raise Failed(f"no app {app!r}; there are: {', '.join(config.apps) or 'none'}", USAGE)
    if not config.apps:
        raise Failed("no app is configured: docs/providers.md shows how", USAGE)
    from notifier.phones import lanes_of

    lanes = [lane for lane in lanes_of(config) if app in (None, lane.app)]
    files = {lane: list(_files(config, lane)) for lane in lanes}
    findings = [finding for lane in lanes for finding in files[lane]]
    _say(findings)
    sound = [lane for lane in lanes if all(finding.word != "FAIL" for finding in files[lane])]
    if sound and not offline:
        findings += run(lambda reactor: _ask_all(reactor, config, sound))
    sys.exit(1 if any(finding.word == "FAIL" for finding in findings) else 0)


@doctor.command()
@redis_options
def lanes(redis: str | None, config_file: Path | None) -> None:
    """Show how many pushes wait in each lane in Redis, and whether this configuration sends on it.

    A lane is one app at one provider. What waits in one that nobody sends on is buried as expired in the end.

    \b
    Examples:
      notifier doctor lanes --config /etc/notifier/notifier.toml
    \b
    Exit codes: 0 all is well, 1 pushes wait where nobody sends, 2 usage, 3 Redis cannot be reached.
    """
    findings = with_redis(redis, config_file, _lanes)
    _say(findings)
    sys.exit(1 if any(finding.word == "FAIL" for finding in findings) else 0)


async def _lanes(reactor: Any, client: Client, config: Config) -> list[Finding]:
    from notifier.edge.push_store import RedisLanes
    from notifier.edge.store import Rules
    from notifier.phones import lanes_of

    shards, buckets = await setup_of(client, config)
    calls: Any = client
    depths = await RedisLanes(calls, Rules(shards=shards, buckets=buckets)).depths()
    configured = {str(lane) for lane in lanes_of(config)}
    found = []
    for lane in sorted(configured | depths.keys()):
        depth = depths.get(lane)
        left = depth is not None and depth.entries > 0
        waits = (
            f"{depth.entries} pushes wait, the oldest for {depth.oldest:.0f} s" if depth and left else "empty"
        )
        if lane not in configured:
            found.append(Finding("FAIL" if left else "ok", lane, f"{waits}; not in this configuration"))
        else:
            found.append(Finding("ok", lane, waits))
    return found or [Finding("ok", "-", "no app is configured, and no device is registered")]


def _say(findings: Sequence[Finding]) -> None:
    for finding in findings:
        click.echo(f"{finding.word:<4}  {finding.lane:<16}  {printable(finding.what)}")


def _config(config_file: Path | None) -> Config:
    if config_file is None and demo_endpoint("redis") is not None:
        config_file = demo_folder().pointed().config
    try:
        return load(config_file, os.environ)
    except ConfigError as error:
        raise Failed(str(error), USAGE) from None


# -- offline


def _files(config: Config, lane: Lane) -> Iterator[Finding]:
    from notifier.core.credentials import CredentialError

    label, app = str(lane), config.apps[lane.app]
    look: Callable[..., Iterator[Finding]] = _apns if lane.provider == "apns" else _google
    try:
        yield from look(config, label, app)
    except CredentialError as error:
        yield Finding("FAIL", label, str(error))
    yield from _clock(label, app, lane)


def _apns(config: Config, label: str, app: App) -> Iterator[Finding]:
    from notifier.edge.provider_files import apns_certificate_file, apns_key_file

    table = app.apns
    assert table is not None
    if table.certificate_file is None:
        apns_key_file(str(table.key_file), str(table.key_id), str(table.team_id))
        yield Finding("ok", label, f"key {table.key_id} of team {table.team_id} can be used")
        if table.key_file and str(table.key_id) not in Path(table.key_file).name:
            yield Finding(
                "warn", label, f"the file is not named after key {table.key_id}: is it the right one?"
            )
        return
    found = apns_certificate_file(table.certificate_file, table.password_file, time.time())
    days = int((found.not_after - time.time()) / DAY)
    word: Word = "ok" if days >= WARN_DAYS else "warn"
    yield Finding(word, label, f"the certificate ends in {days} days")
    if found.topics and table.topic not in found.topics:
        yield Finding(
            "FAIL",
            label,
            f"topic {table.topic} is not among those of the certificate: {', '.join(found.topics)}",
        )
    else:
        yield Finding(
            "ok", label, f"the certificate is for {', '.join(found.topics) or 'a topic it does not tell'}"
        )
    if found.environments and table.environment not in found.environments:
        yield Finding("FAIL", label, f"the certificate is not for the {table.environment} environment")


def _google(config: Config, label: str, app: App) -> Iterator[Finding]:
    from notifier.edge.provider_files import gateway_key_file, service_account_file

    if app.gcm is not None:
        gateway_key_file(app.gcm.key_file)
        yield Finding("ok", label, f"the key of the gateway {app.gcm.url} can be used")
        return
    assert app.fcm is not None
    file, push = app.fcm.service_account_file, config.push
    account, _ = service_account_file(file, push.token_hosts, app.fcm.token_url or "")
    yield Finding("ok", label, f"{account.client_email} of project {account.project_id} can be used")


def _clock(label: str, app: App, lane: Lane) -> Iterator[Finding]:
    """A provider token of a clock that is wrong is refused. A file from the future is a clock that is behind."""
    table: Any = app.apns if lane.provider == "apns" else app.fcm or app.gcm
    for field in ("key_file", "certificate_file", "service_account_file"):
        name = getattr(table, field, None)
        if name is not None and Path(name).exists() and Path(name).stat().st_mtime > time.time() + DAY:
            yield Finding("warn", label, f"{name} is from the future: is this machine's clock right?")


# -- online


async def _ask_all(reactor: Any, config: Config, lanes: Sequence[Lane]) -> list[Finding]:
    found = []
    for lane in lanes:
        found.append(await _ask(reactor, config, lane))
        _say(found[-1:])
    return found


async def _ask(reactor: Any, config: Config, lane: Lane) -> Finding:
    from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
    from twisted.internet.error import TimeoutError as Late

    from notifier.core.credentials import CredentialError
    from notifier.phones import build

    if config.apps[lane.app].gcm is not None and lane.provider == "fcm":
        return Finding("ok", str(lane), "a gateway cannot be asked without pushing; not asked")
    try:
        link = build(reactor, config, lane, validate_only=True).link
    except CredentialError as error:
        return Finding("FAIL", str(lane), str(error))
    asking: Deferred[Any] = Deferred.fromCoroutine(_send(link, lane, config))
    asking.addTimeout(SECONDS, reactor)
    try:
        outcome = await asking
    except (CancelledError, Late):
        return Finding("FAIL", str(lane), f"no answer within {SECONDS:g} s")
    finally:
        fault = _fault(link)
        stopping: Deferred[Any] = ensureDeferred(_stopped(link))
        await stopping.addTimeout(SECONDS, reactor).addErrback(lambda _: None)
    return _told(lane, outcome, fault)


async def _stopped(link: Any) -> None:
    await link.stop()


async def _send(link: Any, lane: Lane, config: Config) -> Outcome:
    from notifier.core.devices import device_id
    from notifier.core.model import Delivery, Device, Notification
    from notifier.core.push import Style, compose
    from notifier.core.text import ENGLISH
    from notifier.ports import PushRequest

    now = int(time.time() * 1000)
    name = f"doctor:{random.getrandbits(64):x}"
    token = NOBODY if lane.provider == "apns" else NOBODY_FCM
    apns = config.apps[lane.app].apns
    environment = apns.environment if apns is not None else "production"
    device = Device(device_id(token), lane.provider, lane.app, token, now, environment)
    one = Notification(name, "doctor", (), 1, now, None, None, "", "0.0", 0)
    push = compose(one, Style(), ENGLISH, 0, now + 60_000)
    (outcome,) = await link.send([PushRequest(Delivery("", name, 0, device, now + 60_000), push)])
    found: Outcome = outcome
    return found


def _fault(link: Any) -> str:
    """Why there was no connection."""
    pools = [link.pool] if hasattr(link, "pool") else list(getattr(link, "pools", {}).values())
    return next((str(pool.fault) for pool in pools if pool.fault), "")


def _told(lane: Lane, outcome: Outcome, fault: str) -> Finding:
    said = f"{outcome.status} {outcome.reason}".strip()
    label = str(lane)
    if outcome.kind == "delivered":
        return Finding(
            "ok", label, "it validates a message" if lane.provider == "fcm" else f"it answers {said}"
        )
    if outcome.kind == "drop_token" and outcome.status == 400:
        return Finding(
            "ok", label, f"it answers {said} to a device that nobody has: the credentials are good"
        )
    if outcome.kind == "drop_token":
        return Finding("FAIL", label, f"it answers {said}: the topic or project is another's")
    if outcome.status == 0:
        return Finding("FAIL", label, f"it cannot be reached: {fault or outcome.reason}")
    return Finding("FAIL", label, f"it answers {said}: {_CURES.get(outcome.reason, 'see docs/providers.md')}")


_CURES: Final = {
    "InvalidProviderToken": "key_id, team_id and key_file do not belong together, or the key was revoked",
    "ExpiredProviderToken": "this machine's clock is wrong",
    "BadCertificate": "the certificate was revoked, or is not for pushes",
    "BadCertificateEnvironment": "the certificate is for the other environment",
    "BadEnvironmentKeyIdInToken": "the key is for the other environment",
    "TopicDisallowed": "the key or certificate is not for this topic",
    "BadTopic": "topic is not the app's bundle id",
    "PERMISSION_DENIED": "the service account may not send, or the project's FCM API is off",
    "UNAUTHENTICATED": "the service account's key was deleted, or this machine's clock is wrong",
    "NOT_FOUND": "there is no such project",
    "SENDER_ID_MISMATCH": "the service account is of another project than the app",
}
