"""`notifier sandbox`: fake APNs and FCM on this machine, until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import click

DEFAULT: Final = Path(".sandbox")


@click.command(
    epilog="""\b
Examples:
  notifier sandbox                        free ports; certificates under .sandbox
  notifier sandbox --port 8100 --apns-port 8443 --fcm-port 8444
  curl -X POST $SANDBOX/script -d '{"provider": "apns", "status": 503, "reason": "ServiceUnavailable", "times": 10}'
  curl $SANDBOX/devices/0a1b2c...         what this phone shows
\b
Exit codes: 0 stopped, 1 a part could not start, 2 usage."""
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Control API and page; 0: any free port."
)
@click.option("--apns-port", type=click.IntRange(0, 65535), default=0, help="Fake APNs; 0: any free port.")
@click.option("--fcm-port", type=click.IntRange(0, 65535), default=0, help="Fake FCM; 0: any free port.")
@click.option(
    "--oauth-port", type=click.IntRange(0, 65535), default=0, help="Google's token endpoint; 0: any."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT,
    show_default=True,
    help="Where the certificates and endpoints.json go.",
)
def sandbox(port: int, apns_port: int, fcm_port: int, oauth_port: int, data: Path) -> None:
    """Fake APNs and FCM that speak real HTTP/2 over TLS, and phones to look at.

    Point any push sender at them: it must trust DATA/authority.pem, and nothing else must. They check requests as
    Apple and Google do, answer with their words, and fail when told to: by rules (POST /script), or by what a device
    token begins with (GET /script lists the prefixes). Everything listens on 127.0.0.1 alone.
    """
    try:
        from notifier.sandbox.credentials import app_toml, make_credentials
        from notifier.sandbox.listen import Ports, start  # late: only this command needs the `h2` library
    except ModuleNotFoundError as error:
        click.echo(
            f"notifier sandbox: {error.name} is not installed: pip install 'notifier[sandbox]'", err=True
        )
        sys.exit(1)
    import msgspec
    from twisted.internet import reactor as the_reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.error import CannotListenError

    reactor: Any = the_reactor
    try:
        running = start(reactor, data, Ports(port, apns_port, fcm_port, oauth_port))
    except (CannotListenError, OSError) as error:
        click.echo(f"notifier sandbox: {error}", err=True)
        sys.exit(1)
    endpoints = msgspec.structs.asdict(running.endpoints)
    announced = data / "endpoints.json"
    fresh = announced.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(endpoints)) + b"\n")
    fresh.replace(announced)
    width = max(map(len, endpoints))
    for name, value in endpoints.items():
        click.echo(f"{name:{width}}  {value}")
    found, made = running.endpoints, make_credentials(data.resolve())
    app = app_toml("demo", made, found.apns, found.fcm, found.token_uri, str(Path(found.authority).resolve()))
    (data / "app.toml").write_text(app, encoding="utf-8")
    click.echo(f"{'app':{width}}  {data / 'app.toml'}, for notifier's configuration")
    click.echo(f"\nThe phones: {running.endpoints.sandbox}   Ctrl-C stops it.")
    sys.stdout.flush()
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(running.stop()))
    reactor.addSystemEventTrigger("before", "shutdown", lambda: announced.unlink(missing_ok=True))
    reactor.run()
