"""SIGHUP: keys and limits are read again. All is checked before anything changes; a fault changes nothing."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from twisted.logger import Logger

from notifier.config import Config, ConfigError
from notifier.core.credentials import CredentialError
from notifier.core.tokens import Key
from notifier.edge import keyring
from notifier.edge.notify import Systemd
from notifier.metrics import Metrics

log = Logger()

RELOADED: Final = frozenset(("tokens", "limits"))

Adopt = Callable[[Config, Sequence[Key]], None]


class Fresh(Struct, frozen=True):
    """What a part has read and checked of a new configuration: the sections it can use at once, and how."""

    sections: frozenset[str]
    use: Callable[[], None]


NOTHING: Final = Fresh(frozenset(), lambda: None)


def needs_restart(old: Config, new: Config, reloaded: frozenset[str] = RELOADED) -> list[str]:
    """The settings that differ and that a reload leaves alone, as section.setting."""
    before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    found = []
    for section, value in before.items():
        if section in reloaded or value == after[section]:
            continue
        if isinstance(value, msgspec.Struct):
            inner, others = msgspec.structs.asdict(value), msgspec.structs.asdict(after[section])
            found += [f"{section}.{name}" for name in inner if inner[name] != others[name]]
        else:
            found.append(section)
    return found


def read_keys(config: Config) -> list[Key]:
    """The keys that the configuration names. Raises keyring.KeyringError with every fault."""
    tokens = config.tokens
    return keyring.load([(key.kid, key.algorithm, key.file) for key in tokens.keys], tokens.jwks_file)


class Reload:
    """What SIGHUP does. `read` reads the configuration anew; `adopt` puts it to use, and must not fail.

    `phones` reads what their providers need, and raises CredentialError."""

    def __init__(
        self, config: Config, read: Callable[[], Config], adopt: Adopt, systemd: Systemd, metrics: Metrics,
        phones: Callable[[Config], Fresh] = lambda config: NOTHING,
    ) -> None:  # fmt: skip
        self._phones = phones
        self.config, self._read, self._adopt, self._systemd, self._metrics = (
            config,
            read,
            adopt,
            systemd,
            metrics,
        )

    def __call__(self) -> None:
        self._systemd.reloading()
        try:
            new = self._read()
            keys = read_keys(new)
            fresh = self._phones(new)
        except (ConfigError, keyring.KeyringError, CredentialError, OSError, ValueError) as error:
            self._metrics.reloads["refused"] += 1
            log.error("reload refused, nothing has changed: {error}", error=str(error))
            self._systemd.ready("reload refused: the log says why")
            return
        reloaded = RELOADED | fresh.sections
        waiting = needs_restart(self.config, new, reloaded)
        # What waits for a restart stays as it was started, so that the next reload says it again.
        changes: dict[str, Any] = {section: getattr(new, section) for section in reloaded}
        used = msgspec.structs.replace(self.config, **changes)
        self._adopt(used, keys)
        fresh.use()
        self.config = used
        self._metrics.reloads["done"] += 1
        if waiting:
            log.warn("changed, but used only after a restart: {settings}", settings=", ".join(waiting))
        log.info("reloaded: {count} token keys, the limits, and what phones are told", count=len(keys))
        self._systemd.ready("reloaded")
