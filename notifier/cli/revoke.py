"""`notifier revoke`: voids a person's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from notifier.cli.connect import Client, redis_options, setup_of, user_id, with_redis
from notifier.config import Config


@click.command()
@click.argument("user", callback=user_id)
@redis_options
def revoke(user: str, redis: str | None, config_file: Path | None) -> None:
    """Void all tokens of USER issued until now, and close the person's sockets everywhere.

    Tokens issued from the next second on are good again. Sockets are closed with code 4509, after which clients do
    not reconnect by themselves.

    \b
    Examples:
      notifier revoke 7
      notifier revoke 7 --config /etc/notifier/notifier.toml
    \b
    Exit codes: 0 revoked, 1 Redis refused, 2 usage, 3 Redis not reachable.
    """

    async def work(reactor: Any, client: Client, config: Config) -> tuple[int, int]:
        from notifier.core import keys
        from notifier.edge.store import REVOKED_SECONDS

        key = keys.revoked(user, (await setup_of(client, config))[0])
        now = int((await client.call("TIME"))[0])
        await client.call("SET", key, now, "EX", REVOKED_SECONDS)
        return now, await client.call("PUBLISH", keys.CONTROL, f"revoke {user}")

    now, heard = with_redis(redis, config_file, work)
    from notifier.core.payload import iso

    click.echo(f"tokens of {user} issued until {iso(now * 1000)} are void", err=True)
    if heard:
        click.echo(
            f"{heard} server process{'es' * (heard > 1)} heard it and closed the open sockets", err=True
        )
    else:
        click.echo(
            "no server process heard it: none runs on this Redis, or it is just reconnecting", err=True
        )
