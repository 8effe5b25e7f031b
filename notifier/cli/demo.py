"""`notifier demo`: Valkey, fake APNs and FCM, the daemon and a photo site on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import click
import txredisapi
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, Logger, globalLogBeginner

from notifier.cli.daemon import WEBSOCKET_PATH, Daemon, daemon_toml
from notifier.cli.folder import AUDIENCE, DEFAULT, KID, SITE_KID, VARIABLE, DemoFolder, FolderError
from notifier.cli.lines import checker_of
from notifier.cli.page_server import PublishError, Token, own_hosts, page_site
from notifier.cli.probe import silent_parts
from notifier.cli.site import Site, missing
from notifier.config import Config
from notifier.core.keys import FRONT_DOOR
from notifier.edge import logs
from notifier.edge.embedded import HOST, EmbeddedServer, ServerError
from notifier.edge.operator_key import make_operator_key, mint

log = Logger()

APP: Final = "demo"  # the one that phones are registered with
TOKEN_SECONDS: Final = 900
SEED_PASSWORD: Final = "look-around"  # noqa: S105  # webapp/cast.py has it; a test holds them together
READY_SECONDS: Final = 30.0  # for the daemon, on a slow machine
ANSWER_SECONDS: Final = 15.0
SITE_SECONDS: Final = 180.0  # at its first start it draws pictures
# The site and the daemon stop at once, then Valkey: together under 10 s.
SITE_STOP, DAEMON_STOP, REDIS_STOP = 6.5, 5.0, 3.0

T = TypeVar("T")


class DemoError(Exception):
    """The demo cannot go on; the text says why and what to do."""


class Stopped(Exception):
    """Somebody asked to stop while the demo was starting."""


def say(text: str = "", end: str = "\n") -> None:
    """To stdout, at once. A terminal or a pipe that went away is no reason to stop."""
    with suppress(OSError):
        click.echo(text + end, nl=False)
        sys.stdout.flush()


class Wanted(NamedTuple):
    """What is asked for. Ports: 0 = a free one.

    port       of the page
    workbench  port of the workbench, where there is a site
    origins    whose pages may have tokens and connect, beside our own
    site       whether the page is the photo site
    crowd      what the people there do by themselves, as 5/s; "" = nothing
    visitors   whether they do it to visitors too
    """

    port: int = 0
    workbench: int = 0
    origins: tuple[str, ...] = ()
    site: bool = True
    crowd: str = ""
    visitors: bool = False


class Demo:
    """All parts, started in order and stopped in reverse. `fault`: why it ended, if nobody asked for it.

    folder   where the data is
    board    where people look for a demo, when that is another folder
    """

    def __init__(self, reactor: Any, folder: DemoFolder, board: DemoFolder | None, wanted: Wanted) -> None:
        self.reactor, self.folder, self.board, self.wanted = reactor, folder, board, wanted
        self.origins = wanted.origins
        self.workbench_port = self.page_port = wanted.port
        self.fault: str | None = None
        self.endpoints: dict[str, str] = {}
        self._asked = False
        self._redis = EmbeddedServer(folder.redis)
        self._daemon = Daemon(folder.config, folder.daemon_log)
        self._site = Site(folder.site, folder.site_log) if wanted.site else None
        self._redis_starting = False
        self._sandbox: Any = None
        self._page: Any = None
        self._producer: Any = None

    def ask_to_stop(self, *_: object) -> None:
        """Signal handler: stop in order. Asked again while stopping, it goes on with that."""
        self._asked = True  # no Event: its lock would be taken twice by two signals that come close together

    async def live(self) -> None:
        """Start, run until asked to stop or until a part dies, stop. Never raises."""
        try:
            await self._start()
            self._greet()
            await self._watch()
        except Stopped:
            pass
        except (DemoError, ServerError, FolderError, OSError, ValueError) as error:
            self.fault = str(error)
        except Exception as error:
            log.failure("the demo itself failed")
            self.fault = f"{type(error).__name__}: {error} (a fault of the demo; see {self.folder.page_log})"
        await self._stop()

    # -- starting

    async def _start(self) -> None:
        began = time.monotonic()
        say(f"notifier demo: starting, with its data in {self.folder.path}")
        self._make_keys()
        self._listen()
        with self._step("Redis (embedded Valkey)"):
            await self._start_redis()
        if self._site is not None:  # it has the most to prepare, and does so beside the others
            self._site.start(
                self._redis.url, self.folder.site_key, SITE_KID, self.wanted.crowd, self.wanted.visitors
            )
        with self._step("phones (fake APNs and FCM)"):
            app = self._start_sandbox()
        with self._step("notifier daemon"):
            own = [
                f"http://{host}" for port in {self.workbench_port, self.page_port} for host in own_hosts(port)
            ]
            kids = (KID,) if self._site is None else (KID, SITE_KID)
            self.folder.config.write_text(
                daemon_toml(self._redis.url, [*own, *self.origins], app, kids), encoding="utf-8"
            )
            self._daemon.start()
            self.endpoints = self._urls(await self._until(self._daemon.ports, READY_SECONDS, self._not_ready))
        if self._site is not None:
            await self._start_site(self._site)
        with self._step("asking every part"):
            await self._all_answer()
        self._announce()
        say(f"  all parts answer after {time.monotonic() - began:.1f} s")

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        if self._asked:
            raise Stopped
        say(f"  {name} ...", end="")
        began = time.monotonic()
        try:
            yield
        except BaseException:
            say()
            if self._asked:
                raise Stopped from None
            raise
        say(f" {time.monotonic() - began:.1f} s")

    def _make_keys(self) -> None:
        pairs = {KID: (self.folder.key, self.folder.public_key)}
        if self._site is not None:
            pairs[SITE_KID] = (self.folder.site_key, self.folder.site_public_key)
        for kid, pair in pairs.items():
            have = [path for path in pair if path.exists()]
            if not have:
                make_operator_key(self.folder.keys, kid)
            elif len(have) == 1:
                raise DemoError(
                    f"{have[0]} lost the other half of its pair: delete it, and a new pair is made"
                )

    def _listen(self) -> None:
        if self._site is not None:
            self.page_port = self._taken("page", "--port", self.wanted.port, self._site.listen)
            self.workbench_port = self.wanted.workbench
        # As the daemon will do it: its configuration says nothing about events either.
        check = checker_of(Config()).fault
        site = page_site(self._mint, self._publish, check, self.reactor, self.origins)

        def listen(port: int) -> int:
            self._page = self.reactor.listenTCP(port, site, interface=HOST)
            taken: int = self._page.getHost().port
            return taken

        alone = self._site is None
        name, option = ("page", "--port") if alone else ("workbench", "--workbench")
        self.workbench_port = self._taken(name, option, self.workbench_port, listen)
        if alone:
            self.page_port = self.workbench_port

    @staticmethod
    def _taken(name: str, option: str, port: int, listen: Callable[[int], int]) -> int:
        """The port that `listen` has taken."""
        try:
            return listen(port)
        except (CannotListenError, OSError) as error:
            why = error.socketError if isinstance(error, CannotListenError) else error
            raise DemoError(
                f"the {name} cannot listen on port {port} of {HOST} ({why}): choose another "
                f"with {option}, or leave {option} out for a free one"
            ) from None

    async def _start_site(self, site: Site) -> None:
        """Wait until its data is there, saying what it does; then tell it where we are, and wait until it serves."""
        shown = ""
        end = time.monotonic() + SITE_SECONDS
        while not site.prepared:
            self._check()
            site.look()
            if site.step != shown:
                shown = site.step
                say(f"  photo site: {shown} ...")
            if time.monotonic() > end:
                raise DemoError(
                    f"the photo site was not ready within {SITE_SECONDS:g} s; see {self.folder.site_log}"
                )
            await self._pause()
        with self._step("photo site: gunicorn and the relay"):
            site.tell({name: self.endpoints[name] for name in ("websocket", "api", "sandbox")})
            await self._until(
                lambda: self._serving(site), SITE_SECONDS, lambda: f"see {self.folder.site_log}"
            )

    @staticmethod
    def _serving(site: Site) -> bool | None:
        site.look()
        return site.ready or None

    async def _start_redis(self) -> None:
        self._redis_starting = True
        begun = deferToThread(self._redis.start)
        while not begun.called:
            await self._pause()
            if self._asked:  # start() waits for an answer; a server that ends gives it one
                with suppress(ServerError, ProcessLookupError):
                    os.kill(self._redis.pid, signal.SIGTERM)
        self._redis_starting = False
        await begun
        self._producer = txredisapi.lazyConnection(
            HOST,
            self._redis.port,
            charset=None,
            convertNumbers=False,
            connectTimeout=5,
            replyTimeout=5,
        )

    def _start_sandbox(self) -> str:
        """Start it; the app of the configuration that sends to it."""
        try:
            from notifier.sandbox.credentials import app_toml, make_credentials
            from notifier.sandbox.listen import start
        except ModuleNotFoundError as error:
            raise DemoError(f"{error.name} is not installed: pip install 'notifier[embedded]'") from None
        made = make_credentials(self.folder.sandbox)
        self._sandbox = start(self.reactor, self.folder.sandbox)
        found = self._sandbox.endpoints
        return app_toml(APP, made, found.apns, found.fcm, found.token_uri, found.authority)

    def _urls(self, ports: dict[str, int]) -> dict[str, str]:
        site = {} if self._site is None else {"web": f"http://{HOST}:{self.page_port}"}
        return {
            "redis": self._redis.url,
            "websocket": f"ws://{HOST}:{ports['websocket']}{WEBSOCKET_PATH}",
            "api": f"http://{HOST}:{ports['api']}",
            "admin": f"http://{HOST}:{ports['admin']}",
            "page": f"http://{HOST}:{self.page_port}/",
            "workbench": f"http://{HOST}:{self.workbench_port}/",
            "sandbox": self._sandbox.endpoints.sandbox,
            **site,
        }

    async def _until(self, ask: Callable[[], T | None], seconds: float, fault: Callable[[], str]) -> T:
        """What `ask` answers as soon as it is not None, unless a part dies or `seconds` pass."""
        end = time.monotonic() + seconds
        while (answer := ask()) is None:
            self._check()
            if time.monotonic() > end:
                raise DemoError(fault())
            await self._pause()
        return answer

    def _not_ready(self) -> str:
        return f"the notifier daemon was not ready within {READY_SECONDS:g} s; {self._daemon.tail()}"

    async def _all_answer(self) -> None:
        end = time.monotonic() + ANSWER_SECONDS
        while silent := await deferToThread(silent_parts, self.endpoints, lambda: self._asked):
            self._check()
            if time.monotonic() > end:
                faults = "".join(
                    f"\n  {name} ({self.endpoints[name]}): {said}" for name, said in silent.items()
                )
                raise DemoError(
                    f"not all parts answered within {ANSWER_SECONDS:g} s:{faults}\n{self._daemon.tail()}"
                )
            await self._pause()

    def _announce(self) -> None:
        self.folder.announce(self.endpoints)
        if self.board is not None:
            self.board.announce(self.endpoints, self.folder.path)

    def _greet(self) -> None:
        event = '{"type":"like","actor":{"id":"bob"},"to":["alice"],"object":{"type":"photo","id":"99"}}'
        try_token = f"{_program()} token alice"
        if self.board is None and self.folder.path != DEFAULT.resolve():
            try_token += f" --data {self.folder.path}"
        say(f"""
Open    {self.endpoints["page"]}
{self._about_site()}{self._for_other_pages()}
Send    redis-cli -p {self._redis.port} XADD {FRONT_DOOR} '*' event '{event}'
Token   {try_token}
Socket  {self.endpoints["websocket"]}
API     {self.endpoints["api"]}
Phones  {self.endpoints["sandbox"]}
Health  {self.endpoints["admin"]}/readyz
Logs    {self.folder.daemon_log}
        (these addresses are in {self.folder.endpoints})

Stop    Ctrl-C, or SIGTERM to process {os.getpid()}. The data stays in {self.folder.path}.
""")

    def _about_site(self) -> str:
        if self._site is None:
            return ""
        return (
            f"        sign up there, or be one of the people that are there already: ana.lima, bruno, chiyo ... with\n"
            f"        the password {SEED_PASSWORD}; two browser windows make two people\n"
            f"Docs    {self.endpoints['web']}/api/docs\n"
            f"Bench   {self.endpoints['workbench']} sends any event to anybody, without the site\n"
        )

    def _for_other_pages(self) -> str:
        """Where a page of another origin gets its tokens."""
        if not self.origins:
            return ""
        return (
            f"Tokens  {self.endpoints['workbench']}token?user=alice, for pages of {', '.join(self.origins)}\n"
        )

    # -- running

    async def _watch(self) -> None:
        while not self._asked:
            self._check()
            await self._pause(0.1)

    def _check(self) -> None:
        """Raises DemoError when a part has died, Stopped when somebody asked to stop."""
        if self._asked:
            raise Stopped
        ended = self._daemon.ended() or (self._site and self._site.ended())
        if ended:
            raise DemoError(ended)
        if not self._redis.running:
            tail = "\n  ".join(self._redis.log.read_text(errors="replace").splitlines()[-12:])
            raise DemoError(f"Redis (embedded Valkey) ended; the end of its log {self._redis.log}:\n  {tail}")

    def _pause(self, seconds: float = 0.02) -> Deferred[None]:
        return deferLater(self.reactor, seconds)

    def _mint(self, user: str) -> Token | None:
        if not self.endpoints:
            return None
        now = time.time()
        token = mint(self.folder.key.read_bytes(), KID, "EdDSA", user, AUDIENCE, TOKEN_SECONDS, now)
        websocket, api = self.endpoints["websocket"], self.endpoints["api"]
        return Token(user, token, int(now) + TOKEN_SECONDS, websocket, api, self.endpoints["sandbox"])

    async def _publish(self, event: bytes) -> str:
        if self._producer is None:
            raise PublishError("Redis is not there yet")
        try:
            # A call on a lazy connection waits for the connection without limit; this one does not.
            call = self._producer.execute_command("XADD", FRONT_DOOR, "*", "event", event)
            entry: bytes = await call.addTimeout(5.0, self.reactor)
        except (txredisapi.RedisError, defer.TimeoutError) as error:
            raise PublishError(str(error) or type(error).__name__) from None
        return entry.decode()

    # -- stopping

    async def _stop(self) -> None:
        say("notifier demo: stopping ...", end="")
        began = time.monotonic()
        for place in filter(None, (self.folder, self.board)):
            with suppress(OSError):
                place.withdraw()  # first: nobody should look for parts that are going
        if self._page is not None:
            await self._page.stopListening()
        stops = [deferToThread(self._daemon.stop, DAEMON_STOP)]
        if self._site is not None:
            stops.append(deferToThread(self._site.stop, SITE_STOP))
        for stopped in stops:
            await stopped
        if self._sandbox is not None:  # after the daemon, which may still have had something to send
            await self._sandbox.stop()
        if self._producer is not None:
            with suppress(Exception):
                await self._producer.disconnect()
        await deferToThread(self._redis.stop, REDIS_STOP)
        say(f" stopped after {time.monotonic() - began:.1f} s")


def origin_of(address: str) -> str | None:
    """The origin of a page's address as browsers send it (RFC 6454 section 6.2); None when it has none."""
    with suppress(ValueError):  # a bracket that is not closed, a port that is no number
        parts = urlsplit(address.lower())
        bare = parts.path in ("", "/") and not (parts.query or parts.fragment) and "@" not in parts.netloc
        if parts.scheme in ("http", "https") and parts.hostname and bare and address.isascii():
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            default = parts.port in (None, {"http": 80, "https": 443}[parts.scheme])
            return f"{parts.scheme}://{host}" + ("" if default else f":{parts.port}")
    return None


def _origins(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    found = {address: origin_of(address) for address in given}
    for address, origin in found.items():
        if origin is None:
            raise click.BadParameter(
                f"{address!r} is no origin: scheme, host and port of your page, as http://localhost:5173"
            )
    return tuple(origin for origin in found.values() if origin)


def _crowd(ctx: click.Context, param: click.Parameter, given: str) -> str:
    if given and re.fullmatch(r"\d+(\.\d+)?/[sm]", given) is None:
        raise click.BadParameter(f"{given!r} is no rate: a number and /s or /m, as 5/s")
    return given


@click.command(
    epilog="""\b
Examples:
  notifier demo
  notifier demo --port 8000 --data /tmp/demo
  notifier demo --crowd 5/s
  notifier demo --no-site --port 8000 --origin http://localhost:5173
\b
Exit codes: 0 stopped when asked to, 1 could not start or a part died (stderr says why), 2 usage."""
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    metavar="N",
    help="Port of the web page.  [default: a free one]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=VARIABLE,
    default=DEFAULT,
    help=f"Folder that keeps the data from one start to the next.  [default: {DEFAULT}, or ${VARIABLE}]",
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    callback=_origins,
    metavar="ORIGIN",
    help="Origin of a page of yours that may connect and get tokens for anybody, as http://localhost:5173. "
    "May be given again.",
)
@click.option(
    "--workbench",
    type=click.IntRange(0, 65_535),
    default=0,
    metavar="N",
    help="Port of the workbench, a plain page that sends any event to anybody.  [default: a free one]",
)
@click.option(
    "--site/--no-site",
    default=None,
    help="With the photo site, or with the workbench as the page.  [default: with it, where it is installed]",
)
@click.option(
    "--crowd",
    default="",
    metavar="RATE",
    callback=_crowd,
    help="How much the people of the photo site do by themselves, as 5/s.  [default: nothing]",
)
@click.option("--crowd-visitors", "visitors", is_flag=True, help="They do it to visitors too.")
def demo(
    port: int,
    data: Path,
    origins: tuple[str, ...],
    workbench: int,
    site: bool | None,
    crowd: str,
    visitors: bool,
) -> None:
    """Start everything on this machine and leave it running: Valkey, PostgreSQL, the daemon, phones, a photo site.

    All of it listens on the loopback. When every part answers, the addresses are printed and written to
    .demo/endpoints.json, which goes away when the demo ends. Ctrl-C stops everything.
    """
    _open_standard_streams()
    wanted = Wanted(port, workbench, origins, _with_site(site), crowd, visitors)
    folder = DemoFolder(data)
    try:
        folder.hold()
        board = _board(folder)
        fault = _run(folder, board, wanted)
    except FolderError as error:
        fault = str(error)
    if fault is not None:
        with suppress(OSError):
            click.echo(f"notifier demo: {fault}", err=True)
        sys.exit(1)


def _with_site(asked: bool | None) -> bool:
    """With the site? Not asked, it is left out where it is not installed, and that is said."""
    lacking = missing() if asked is not False else []
    if not lacking:
        return asked is not False
    hint = f"it needs {', '.join(lacking)}: pip install 'notifier[embedded,webapp]'"
    if asked:
        raise click.UsageError(f"the photo site is not installed; {hint}")
    say(f"notifier demo: without the photo site; {hint}")
    return False


def _program() -> str:
    """How this program was called, so that what we print can be typed as it stands."""
    called = Path(sys.argv[0])
    if called.name != "notifier":
        return "notifier"
    with suppress(ValueError):
        return str(called.absolute().relative_to(Path.cwd()))
    return str(called)


def _board(folder: DemoFolder) -> DemoFolder | None:
    """Where people look for a demo, when its data is elsewhere; None when another demo is announced there."""
    usual = DemoFolder(DEFAULT)
    if usual.path == folder.path:
        return None
    try:
        usual.hold()
    except FolderError as error:
        say(f"notifier demo: not announced in {usual.path}: {error}")
        return None
    return usual


def _run(folder: DemoFolder, board: DemoFolder | None, wanted: Wanted) -> str | None:
    """Runs a demo in this thread until it has ended; why, unless somebody asked for it."""
    from twisted.internet import reactor as installed  # late: importing it installs it

    reactor: Any = installed
    running = Demo(reactor, folder, board, wanted)
    # Set in any case: a shell that starts us in the background leaves SIGINT ignored. A SIGHUP that is
    # ignored stays so, for that is what nohup is for.
    signal.signal(signal.SIGINT, running.ask_to_stop)
    signal.signal(signal.SIGTERM, running.ask_to_stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, running.ask_to_stop)
    with folder.page_log.open("a", encoding="utf-8") as page_log:
        lines = cast("ILogObserver", logs.observer(page_log, "warn", "text"))
        globalLogBeginner.beginLoggingTo([lines], redirectStandardIO=False)
        reactor.callWhenRunning(
            lambda: Deferred.fromCoroutine(running.live()).addBoth(lambda _: reactor.stop())
        )
        reactor.run(installSignalHandlers=False)
    return running.fault


def _open_standard_streams() -> None:
    """Started with stdin, stdout or stderr closed, the first sockets and files would take their places."""
    for stream in (0, 1, 2):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
