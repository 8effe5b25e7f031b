"""What a window of the site shows, as expressions for `Window.until`."""

from __future__ import annotations

from typing import Final

from tests.page.chromium import Chromium, Window

SIGNED_IN: Final = "document.body.dataset.signed"
PATH: Final = "location.pathname"
CARDS: Final = "[...document.querySelectorAll('article.card')].map((card) => card.dataset.photo)"
TILES: Final = "[...document.querySelectorAll('main a.tile')].map((tile) => tile.pathname.split('/').pop())"
COMMENTS: Final = (
    "[...document.querySelectorAll('.comment:not(.pending) .said p:first-child')]"
    ".map((said) => said.textContent)"
)
LIKES: Final = "document.querySelector('.likes')?.textContent"
HEART: Final = "document.querySelector('.heart')?.getAttribute('aria-pressed')"
FOLLOW: Final = "document.querySelector('.profile .follow')?.getAttribute('aria-pressed')"
FOLLOWERS: Final = "document.querySelector('.numbers button')?.textContent"
TOASTS: Final = (
    "[...document.querySelectorAll('.toast > p, .toast > .lead')].map((toast) => toast.textContent)"
)
BADGE: Final = "document.getElementById('badge').hidden ? '' : document.getElementById('badge').textContent"
STATE: Final = "document.querySelector('#line [role=status]').textContent"
NOTICES: Final = (
    "[...document.querySelectorAll('#rows .say')].map((row) => row.innerText.replace(/^Unread:\\n/, ''))"
)
LIST_OPEN: Final = "document.getElementById('notices').matches(':popover-open')"
TROUBLE: Final = "document.querySelector('.trouble p')?.textContent"
NOTHING: Final = "document.querySelector('.nothing h2')?.textContent"
HEADING: Final = "document.querySelector('main h1')?.textContent"


def live(window: Window) -> None:
    """Returns when the bell is connected."""
    window.until(STATE, "Live")


def faults(browser: Chromium) -> list[str]:
    """What the consoles say beyond answers that are no success, which a page must bear."""
    return [
        line for line in browser.log() if "Failed to load resource" not in line and "net::ERR_" not in line
    ]


def visit(window: Window, path: str) -> None:
    """Follows a link there, as a click would."""
    window.run(
        "const link = document.createElement('a'); link.href = arguments[0];"
        "document.body.append(link); link.click(); link.remove()",
        path,
    )
