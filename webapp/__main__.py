"""`python -m webapp COMMAND`: Django's commands, and those of this app."""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

from webapp.config import ConfigError


def main() -> None:
    """Runs the command that the command line names. WEBAPP_CONFIG names the file of settings."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    try:
        execute_from_command_line(["python -m webapp", *sys.argv[1:]])
    except ConfigError as fault:
        print(fault, file=sys.stderr)  # noqa: T201  # it is for who started this
        sys.exit(2)


if __name__ == "__main__":
    main()
