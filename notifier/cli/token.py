"""`notifier token`: a token for anybody, minted with the key of a demo."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from notifier.cli.folder import AUDIENCE, DEFAULT, KID, VARIABLE, DemoFolder
from notifier.core.tokens import USER

LIFE = 3600  # s
LEAST, MOST = 900, 86_400


def _user_id(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if USER.fullmatch(value) is None:
        raise click.BadParameter(f"{value!r} is no user id: 1 to 64 characters of A-Z a-z 0-9 _ . -")
    return value


@click.command(
    epilog="""\b
Examples:
  notifier token 7
  curl -H "Authorization: Bearer $(notifier token 7)" "$API/v1/inbox"
  notifier token relay --scope publish --life 86400
\b
Exit codes: 0 printed, 2 a bad user id or option, 3 no demo here."""
)
@click.argument("user", callback=_user_id)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=VARIABLE,
    help=f"The demo's data folder.  [default: {DEFAULT}, or ${VARIABLE}]",
)
@click.option("--scope", metavar="SCOPE", help='What the token is for, as in "inbox"; several: with spaces.')
@click.option(
    "--life",
    metavar="SECONDS",
    type=click.IntRange(LEAST, MOST),
    default=LIFE,
    show_default=True,
    help=f"How long it is good for: {LEAST} to {MOST} seconds.",
)
def token(user: str, data: Path | None, scope: str | None, life: int) -> None:
    """Print a token for USER, alone on one line.

    It is signed with the key of the demo in the current folder. Any user id will do: no list of users is kept.
    """
    from notifier.edge.operator_key import mint  # late: cryptography takes longer to load than --help should

    folder = DemoFolder(data) if data is not None else DemoFolder(DEFAULT).pointed()
    try:
        pem = folder.key.read_bytes()
    except OSError as error:
        click.echo(
            f"notifier token: no demo has been started with the data folder {folder.path} ({folder.key}: "
            f"{error.strerror}). Start one with `make demo`, go to the folder it was started in, or name its data "
            "folder with --data.",
            err=True,
        )
        sys.exit(3)
    try:
        minted = mint(pem, KID, "EdDSA", user, AUDIENCE, life, time.time(), scope)
    except ValueError as error:
        click.echo(f"notifier token: {folder.key}: {error}", err=True)
        sys.exit(1)
    click.echo(minted)
