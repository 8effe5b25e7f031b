"""`python -m bench` runs all benches but `day`, which takes a quarter of an hour; `python -m bench NAME... [OPTIONS]`
runs some, `python -m bench list` tells them."""

from __future__ import annotations

import importlib
import sys

BENCHES = (
    "hub", "pipeline", "broadcast", "idle", "handshake", "http2_core", "apns", "push", "web", "webapp_relay", "day",
)  # fmt: skip
LONG = ("day",)


def main() -> int:
    """The exit status: 0 if every bench that was asked for has measured all its rows."""
    words = sys.argv[1:]
    split = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    names, options = words[:split], words[split:]
    if names == ["list"]:
        for name in BENCHES:
            about = importlib.import_module(f"bench.{name}").__doc__ or ""
            print(f"{name:10} {about.splitlines()[0]}")
        return 0
    for name in names:
        if name not in BENCHES:
            print(f"no bench {name!r}; there are: {', '.join(BENCHES)}", file=sys.stderr)
            return 2
    return max([_run(name, options) for name in names or [name for name in BENCHES if name not in LONG]])


def _run(name: str, options: list[str]) -> int:
    print(f"\n## {name}\n", flush=True)
    try:
        importlib.import_module(f"bench.{name}").main(options)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
