"""`notifier`: one group of commands, each imported only when it is used (so that --help needs no reactor)."""

import importlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from notifier import __version__

__all__ = ["main", "notifier"]


class Place(NamedTuple):
    """Where a command is written, and the line that `notifier --help` says of it."""

    module: str
    attribute: str
    line: str


COMMANDS: Final[dict[str, Place]] = {
    "demo": Place("notifier.cli.demo", "demo", "Start everything on this machine and leave it running."),
    "token": Place("notifier.cli.token", "token", "Print a token for a person, beside a running demo."),
    "publish": Place("notifier.cli.publish", "publish", "Append events to the front door."),
    "watch": Place("notifier.cli.watch", "watch", "Follow a person's notifications on a WebSocket."),
    "revoke": Place("notifier.cli.revoke", "revoke", "Void all tokens of a person; close their sockets."),
    "device": Place("notifier.cli.device", "device", "Add, list, remove, export or import devices."),
    "doctor": Place("notifier.cli.doctor", "doctor", "Check what a server depends on: APNs and FCM."),
    "dlq": Place("notifier.cli.dlq", "dlq", "List, show, retry or drop dead letters."),
    "sandbox": Place(
        "notifier.cli.sandbox", "sandbox", "Fake APNs and FCM to test push code with, and phones."
    ),
    "config": Place(
        "notifier.cli.config", "config", "Check a configuration; print the default or the reference."
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are known by name, and imported when one of them is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        command = getattr(importlib.import_module(place.module), place.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(
                f"{place.module}.{place.attribute} is {type(command).__name__}, not a click command"
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of --help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.line) for name, place in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}; there are: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="`notifier COMMAND --help` shows examples. Exit codes: 0 done, 1 failed, 2 usage, 3 not reachable.",
)
@click.version_option(__version__, "-V", "--version", prog_name="notifier", message="%(prog)s %(version)s")
def notifier() -> None:
    """Real-time notifications: publish events, watch them arrive, look after what did not."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of the `notifier` program; never returns. A reader that went away (`| head`) ends it without a word."""
    notifier.main(args=None if arguments is None else list(arguments), prog_name="notifier")
