"""`notifier config`: a configuration looked over without starting anything; the default one; the reference."""

import os
from pathlib import Path

import click

from notifier.cli.connect import Failed
from notifier.config import Config, ConfigError, default_toml, load, reference_markdown


@click.group(short_help="Check a configuration; print the default or the reference.")
def config() -> None:
    """Check a configuration; print the default or the reference.

    \b
    Examples:
      notifier config default > notifier.toml
      notifier config check notifier.toml
      NOTIFIER_LOG__LEVEL=debug notifier config check
    """


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Look over FILE and the NOTIFIER_ variables, and the files they name.

    Without FILE the variables alone. Nothing is started and nobody is connected to. Every fault is told, on stderr.

    \b
    Examples:
      notifier config check notifier.toml
      notifier config check /etc/notifier/notifier.toml && systemctl restart notifier
    \b
    Exit codes: 0 it can be used, 1 it cannot.
    """
    try:
        found = load(file, os.environ)
    except ConfigError as error:
        raise Failed(str(error)) from None
    faults = _faults_of_files(found)
    if faults:
        raise Failed("\n".join(faults))
    where = str(file) if file is not None else "the environment (no FILE was given)"
    click.echo(f"{where}: fine", err=True)
    if not found.tokens.keys and not found.tokens.jwks_file and not found.tokens.jwks_url:
        click.echo("but nobody can authenticate: tokens.keys, jwks_file and jwks_url name no key", err=True)


def _faults_of_files(found: Config) -> list[str]:
    """What is wrong inside of the files that the configuration names."""
    from notifier.edge import keyring
    from notifier.edge.secret_file import read_secret

    faults: list[str] = []
    tokens, redis = found.tokens, found.redis
    try:
        keyring.load([(key.kid, key.algorithm, key.file) for key in tokens.keys], tokens.jwks_file)
    except keyring.KeyringError as error:
        faults.append(str(error))
    files = (
        ("redis.password_file", redis.password_file, read_secret),
        ("redis.ca_file", redis.ca_file, _text),
    )
    for setting, name, read in files:
        if name is None:
            continue
        try:
            if not read(Path(name)):
                faults.append(f"{setting}: {name} is empty")
        except (OSError, ValueError) as error:
            faults.append(f"{setting}: {name}: {error}")
    return faults


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


@config.command()
def default() -> None:
    """Print a configuration with every setting at its default, each explained.

    \b
    Example:
      notifier config default > notifier.toml
    """
    click.echo(default_toml(), nl=False)


@config.command()
def reference() -> None:
    """Print the reference of all settings, as Markdown.

    \b
    Example:
      notifier config reference | less
    """
    click.echo(reference_markdown(), nl=False)
