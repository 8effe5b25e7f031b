"""The phones on the demo's page: registered by it, and rung by what is published beside them."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver.common.by import By

from tests.daemon import wait_until
from tests.page.chromium import PATIENCE, Chromium
from tests.test_demo import cli, demo


def screens(browser: Chromium, person: int) -> list[str]:
    """What stands on the phones of a person, an iPhone and an Android; [] while they are not shown."""
    driver = browser.driver
    driver.switch_to.default_content()
    frames = driver.find_elements(By.CSS_SELECTOR, ".person iframe.phones")
    if not frames[person].is_displayed():
        return []
    driver.switch_to.frame(frames[person])
    try:
        found = driver.find_elements(By.CSS_SELECTOR, ".phone")
        return [f"{one.get_attribute('aria-label')}: {one.text}" for one in found]
    finally:
        driver.switch_to.default_content()


def test_a_like_shows_on_the_bell_and_on_both_phones(browser: Chromium, tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        window = browser.open(running.ready()["page"])
        wait_until(lambda: len(screens(browser, 0)) == 2, PATIENCE, "alice has no phones")
        assert all("No notifications" in screen for screen in screens(browser, 1))
        said = cli(
            tmp_path, "publish", "--type", "like", "--actor", "bob", "--to", "alice", "--object", "photo/99"
        )
        assert said.returncode == 0, said.stderr

        def rung() -> list[str]:
            return [screen for screen in screens(browser, 0) if "liked your photo" in screen]

        wait_until(lambda: len(rung()) == 2, PATIENCE, lambda: str(screens(browser, 0)))
        iphone, android = rung()
        assert iphone.startswith("iPhone")
        assert android.startswith("Android")
        window.until("document.querySelector('.person .badge').textContent", "1")
        assert all("badge 1" in screen for screen in rung())
        assert all("No notifications" in screen for screen in screens(browser, 1))
        # Another name is another person, with phones of their own.
        window.run(
            "const field = document.querySelector('.person .user'); field.value = 'carla';"
            "field.dispatchEvent(new Event('change'))"
        )
        wait_until(
            lambda: len(screens(browser, 0)) == 2 and not rung(), PATIENCE, lambda: str(screens(browser, 0))
        )
        assert [line for line in browser.log() if "favicon" not in line] == []
