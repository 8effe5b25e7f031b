"""Two people side by side on the whole system: what one does on the site rings the other's bell and phones."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver.common.keys import Keys

from tests.daemon import wait_until
from tests.page.chromium import PATIENCE, Chromium, Window
from tests.webapp.page import seen
from tests.webapp.page.paintings import painting
from tests.webapp.page.real import RealSite
from tests.webapp.page.test_bell import screens


def join(browser: Chromium, site: RealSite, name: str) -> Window:
    window = browser.open(site.url + "/signup", 1280, 800)
    window.until("document.activeElement.name", "name")
    window.write("#field-name", name)
    window.write("#field-display_name", name.title())
    window.write("#field-password", f"the password of {name}")
    window.press(Keys.ENTER)
    window.until(seen.SIGNED_IN, "in")
    seen.live(window)
    return window


def share(window: Window, file: Path, caption: str) -> str:
    """Uploads a picture; the address of the photo."""
    seen.visit(window, "/upload")
    window.until(seen.HEADING, "Share a photo")
    window.find("#file").send_keys(str(file))
    window.until("document.querySelector('.preview img')?.naturalWidth > 0")
    window.write("#caption", caption)
    window.click(".share .primary")
    window.until("location.pathname.startsWith('/p/')")
    window.until("document.querySelector('.single img')?.naturalWidth > 0")
    return str(window.run("return location.pathname"))


def test_two_people_side_by_side(site: RealSite, two: tuple[Chromium, Chromium], tmp_path: Path) -> None:
    ana, ben = join(two[0], site, "ana"), join(two[1], site, "ben")
    ana.until("document.body.dataset.phones", "open")
    wait_until(lambda: len(screens(ana)) == 2, PATIENCE, "ana has no phones")
    file = tmp_path / "ridge.jpg"
    file.write_bytes(painting(7))
    photo = share(ana, file, "First light over the ridge")

    # Ben, new here, discovers the photo and follows who took it.
    seen.visit(ben, "/")
    ben.until("document.querySelectorAll('.suggested .follow').length", 1)
    ben.click(".suggested .follow")
    ana.until(seen.TOASTS, ["ben started following you"])
    ana.until(seen.BADGE, "1")
    ben.until("document.querySelector('.nothing .primary').textContent", "See your photos")
    ben.click(".nothing .primary")
    ben.until(seen.CARDS, [photo.removeprefix("/p/")])

    # A like, from the click to the bell, the page and the phones.
    ben.click(".heart")
    ben.until(seen.HEART, "true")
    ana.until(seen.BADGE, "2")
    ana.until(seen.LIKES, "1 like")

    def rung() -> list[str]:
        return [screen for screen in screens(ana) if "liked your photo" in screen]

    wait_until(lambda: len(rung()) == 2, PATIENCE, lambda: str(screens(ana)))

    # Words, one to the other and back.
    ben.click(".write textarea")
    ben.press("What a light, @ana!", Keys.ENTER)
    ana.until(seen.COMMENTS, ["ben What a light, @ana!"])
    ana.until(seen.BADGE, "3")
    ana.click(".write textarea")
    ana.press("Thank you @ben", Keys.ENTER)
    ben.until(seen.BADGE, "1")
    ben.until(seen.TOASTS, ["ana mentioned you"])
    ben.click("#bell")
    ben.until("document.querySelectorAll('#rows li[data-id]').length", 1)
    ben.click("#rows a")
    ben.until(seen.PATH, photo)
    ben.until("document.querySelector('.comment.target .said p')?.textContent", "ana Thank you @ben")
    ben.until(seen.BADGE, "")

    # A like that is taken back goes from the bell as it came.
    ben.click(".heart")
    ben.until(seen.HEART, "false")
    ana.until(seen.BADGE, "2")

    # And the photo, with all that was told of it.
    ana.click(".single .byline .faint")
    ana.click("dialog .danger")
    ana.until(seen.NOTHING, "Your wall is bare")
    ana.until(seen.BADGE, "1")
    ana.click("#bell")
    ana.until("[...document.querySelectorAll('#rows b')].map((name) => name.textContent)", ["ben"])
    seen.visit(ben, photo)
    ben.until(seen.NOTHING, "This photo is gone")
    ben.until("[...document.querySelectorAll('.single')].length", 0)
    seen.visit(ben, "/")
    ben.until(seen.NOTHING, "It is quiet in here")
    for browser in two:
        assert seen.faults(browser) == []
