"""What commands share: which Redis is meant, one connection to it through txredisapi, how a command ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from notifier.cli.folder import DEFAULT, VARIABLE, DemoFolder
from notifier.config import Config, ConfigError, load

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from notifier.edge.redis import Address

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
URL: Final = "NOTIFIER_REDIS__URL"
LOOKS: Final = 5  # at a connection that is asked something, until it counts as lost


class Failed(click.ClickException):
    """The end of a command: what is wrong, where and what to do about it; `exit_code` says of which kind."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's own way, declared as a constant


class Interrupted(click.exceptions.Exit):
    """The user, or a service manager, had enough."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)


def user_id(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Callback of a USER argument."""
    from notifier.core.tokens import USER

    if USER.fullmatch(value) is None:
        raise click.BadParameter(f"{value!r} is not a user id: 1 to 64 characters of A-Z a-z 0-9 _ . -")
    return value


# --- Which Redis ---------------------------------------------------------------------------------------


def redis_options(command: Command) -> Command:
    """--redis and --config, the same for every command that talks to Redis."""
    redis = click.option(
        "--redis", metavar="URL", help="Redis to talk to, as redis://host:port/db or rediss://..."
    )
    config = click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Configuration of the server: where Redis is, the file of its password, the event types.",
    )
    return redis(config(command))


def demo_folder() -> DemoFolder:
    """The folder of the demo that may run here: $NOTIFIER_DEMO, else .demo."""
    return DemoFolder(Path(os.environ.get(VARIABLE) or DEFAULT))


def demo_endpoint(name: str) -> str | None:
    """A URL of the demo that runs here; None without a demo."""
    try:
        found = json.loads(demo_folder().endpoints.read_bytes())
    except (OSError, ValueError):
        return None
    url = found.get(name) if isinstance(found, dict) else None
    return url if isinstance(url, str) else None


def configured(redis: str | None, config_file: Path | None) -> Config:
    """The configuration, its Redis by --redis, the environment, the file, the demo here, or the default.

    Raises Failed, a fault of usage.
    """
    environ = dict(os.environ)
    demo = demo_endpoint("redis") if config_file is None else None
    url = redis or (demo if URL not in environ else None)
    if url is not None:
        environ[URL] = url
    try:
        return load(config_file, environ)
    except ConfigError as error:
        origin = "--redis" if redis else "endpoints.json of the demo"
        raise Failed(str(error).replace(URL, origin) if url else str(error), USAGE) from None


# --- The connection ------------------------------------------------------------------------------------


class Client:
    """One connection; calls are pipelined and answered in order. It is not made again: a lost one ends the command.

    timeout: seconds without any answer after which it counts as lost.
    """

    def __init__(self, reactor: Any, handler: Any, address: Address, timeout: float) -> None:
        from twisted.internet.task import LoopingCall

        self.address, self.timeout = address, timeout
        self._handler = handler
        self._asked = self._answered = self._seen = self._silent = 0
        self._why = ""
        self._watch: Any = LoopingCall(self._look)
        self._watch.clock = reactor
        self._watch.start(timeout / LOOKS, now=False)

    def call(self, *args: str | bytes | int) -> Deferred[Any]:
        """Send a command now; its answer (bytes as they are), or Unavailable, or ReplyError."""
        self._asked += 1
        answer: Deferred[Any] = self._handler.execute_command(*args)
        return answer.addCallbacks(self._well, self._badly)

    def _well(self, answer: Any) -> Any:
        self._answered += 1
        return answer

    def _badly(self, failure: Any) -> None:
        import txredisapi

        from notifier.edge.redis import ReplyError
        from notifier.ports import Unavailable

        self._answered += 1
        error = failure.value
        if isinstance(error, txredisapi.ResponseError):
            raise ReplyError(str(error)) from None
        if isinstance(error, txredisapi.ConnectionError):
            raise Unavailable(f"connection to {self.address} lost: {self._why or error}") from None
        failure.raiseException()

    def _look(self) -> None:
        # Looks are counted, not seconds: while this process is stopped, or held up by who reads its output, answers
        # may be waiting already. (txredisapi's replyTimeout would call them lost.)
        waits = self._asked > self._answered and self._answered == self._seen
        self._seen = self._answered
        self._silent = self._silent + 1 if waits else 0
        if self._silent >= LOOKS:
            self._why = f"no answer for {self.timeout:g} s"
            for connection in list(self._handler._factory.pool):
                connection.transport.abortConnection()

    async def close(self) -> None:
        """Let go of the connection."""
        self._watch.stop()
        await self._handler.disconnect()


async def connect(reactor: Any, config: Config) -> Client:
    """A connection that answers. Raises Failed, which says why there is none."""
    from notifier.edge.redis import Address, ReplyError
    from notifier.ports import Unavailable

    redis = config.redis
    try:
        address = Address.parse(redis.url, redis.username, redis.password_file, redis.ca_file)
    except (OSError, ValueError) as error:
        raise Failed(f"redis.password_file {redis.password_file}: {error}", USAGE) from None
    client = Client(reactor, await _handler(reactor, address, config), address, redis.timeout_seconds)
    try:
        await client.call("PING")
    except ReplyError as error:
        raise _refused(address, str(error).rstrip(".")) from None
    except Unavailable as error:
        raise Failed(f"{error}", UNREACHABLE) from None
    return client


async def _handler(reactor: Any, address: Address, config: Config) -> Any:
    import txredisapi
    from twisted.internet.defer import CancelledError

    # Not a lazy connection: with a wrong password one of those never answers. No conversion of numbers: it would turn
    # "1_000" into 1000; no charset: what is stored is bytes.
    waiting: Deferred[Any] = txredisapi.Connection(
        address.host, address.port, address.db or None, reconnect=False, charset=None, convertNumbers=False,
        username=address.username, password=address.password, ssl_context_factory=_tls(address),
        connectTimeout=config.redis.connect_seconds,
    )  # fmt: skip
    waiting.addTimeout(config.redis.connect_seconds + 1, reactor)
    try:
        return await waiting
    except (TimeoutError, CancelledError):
        why = f"no answer within {config.redis.connect_seconds:g} s"
    except ValueError as error:
        why = str(error).removeprefix("Redis error: ").rstrip(".")
        if "could not auth" in why or "could not set dbid" in why:
            raise _refused(address, why) from None
    raise Failed(
        f"cannot reach Redis at {address}: {why}. Is it running, and is this the right address? "
        f"--redis URL, --config FILE or {URL} name another.",
        UNREACHABLE,
    )


def _tls(address: Address) -> Any:
    """txredisapi's own TLS checks no certificate."""
    if not address.tls:
        return None
    from twisted.internet import ssl

    root = ssl.Certificate.loadPEM(Path(address.ca_file).read_bytes()) if address.ca_file else None
    return ssl.optionsForClientTLS(address.host, trustRoot=root)


def _refused(address: Address, why: str) -> Failed:
    return Failed(
        f"Redis at {address} refuses us: {why}. A password is read from the file that redis.password_file "
        f"of --config FILE names.",
        UNREACHABLE,
    )


async def setup_of(client: Client, config: Config) -> tuple[int, int]:
    """(shards, buckets of idempotency marks) as the state was set up, else as configured."""
    from notifier.core import keys
    from notifier.edge.store import buckets

    stored = await client.call("HMGET", keys.SETUP, "shards", "buckets")
    shards = int(stored[0] or config.redis.shards)
    return shards, int(stored[1] or buckets(config.events.rate, shards))


# --- How a command runs and ends -----------------------------------------------------------------------


def run(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run the reactor for this one coroutine function and return what it returns, or raise what it raises.

    An error of Redis becomes Failed; SIGINT and SIGTERM raise Interrupted.
    """
    from twisted.internet import task
    from twisted.internet.defer import Deferred
    from twisted.logger import globalLogBeginner

    # What libraries log is no answer to the user: errors reach them as exceptions.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    results: list[T] = []
    faults: list[Exception] = []

    async def guarded(reactor: Any) -> None:
        try:
            results.append(await work(reactor))
        except Exception as error:
            faults.append(error)

    try:
        task.react(lambda reactor: Deferred.fromCoroutine(guarded(reactor)))
    except SystemExit:
        pass  # react's way to return
    if faults:
        raise _ended(faults[0])
    if not results:
        raise Interrupted
    return results[0]


def _ended(error: Exception) -> Exception:
    from notifier.edge.redis import ReplyError
    from notifier.ports import Unavailable

    if isinstance(error, Unavailable):
        return Failed(f"{error}. What was asked last may or may not have happened.", UNREACHABLE)
    if isinstance(error, ReplyError):
        return Failed(f"Redis refuses: {error}")
    return error


def with_redis(
    redis: str | None, config_file: Path | None, work: Callable[[Any, Client, Config], Coroutine[Any, Any, T]]
) -> T:
    """Run `work(reactor, client, config)` with a connection to the Redis that is meant."""
    config = configured(redis, config_file)

    async def connected(reactor: Any) -> T:
        client = await connect(reactor, config)
        try:
            return await work(reactor, client, config)
        finally:
            await client.close()

    return run(connected)


def printable(text: str) -> str:
    """Text for a terminal: what people sent must not move its cursor."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
