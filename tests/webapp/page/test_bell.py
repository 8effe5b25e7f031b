"""The bell of the site, on a real notifier: what comes, what is seen and read, the line, and the phones beside it."""

from __future__ import annotations

from collections.abc import Callable

from selenium.webdriver.common.keys import Keys

from tests.daemon import wait_until
from tests.page.chromium import PATIENCE, Chromium, Window
from tests.webapp.page import seen
from tests.webapp.page.fake import Person
from tests.webapp.page.stage import Stage

Named = Callable[[str], Person]
UNREAD = "[...document.querySelectorAll('#rows li')].map((row) => row.classList.contains('unread'))"
HEADINGS = "[...document.querySelectorAll('#rows .heading')].map((row) => row.textContent)"


def screens(window: Window) -> list[str]:
    """What stands on the two phones; [] while they are not shown."""
    window.run("return 1")
    driver = window.driver
    frame = window.find("#phones iframe")
    if not frame.is_displayed():
        return []
    driver.switch_to.frame(frame)
    try:
        # At once: the phones are drawn anew with each push.
        found: list[str] = driver.execute_script(
            "return [...document.querySelectorAll('.phone')]"
            ".map((phone) => `${phone.ariaLabel}: ${phone.innerText}`)"
        )
        return found
    finally:
        driver.switch_to.default_content()


def test_a_like_rings_the_bell_and_both_phones(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ana, "Ridge")
    window = stage.open(browser, ana, f"/p/{photo.id}")
    seen.live(window)
    wait_until(lambda: len(screens(window)) == 2, PATIENCE, "ana has no phones")
    assert all("No notifications" in screen for screen in screens(window))
    stage.api.like(photo, ben)
    window.until(seen.BADGE, "1")
    window.until("document.title", f"(1) Photo by {ana.shown}: Ridge · Glimpse")
    window.until(seen.TOASTS, [f"{ben.name} liked your photo"])
    window.until("document.querySelector('.toast .lead').pathname", f"/p/{photo.id}")
    window.click(".toast .lead")
    window.until(seen.BADGE, "")  # who follows it has read it
    window.until("document.title", f"Photo by {ana.shown}: Ridge · Glimpse")
    # The photo on the page has heard of it, too.
    window.until(seen.LIKES, "1 like")
    wait_until(
        lambda: sum("liked your photo" in screen for screen in screens(window)) == 2,
        PATIENCE,
        lambda: str(screens(window)),
    )
    stage.api.like(photo, ben, on=False)
    window.until(seen.LIKES, "Be the first to like this")
    window.click("#bell")
    window.until("document.getElementById('no-rows').hidden", False)
    assert seen.faults(browser) == []


def test_the_list_leads_to_the_photo_and_what_was_opened_is_read(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana, ben, eve = person("ana"), person("ben"), person("eve")
    photo = stage.api.photo(ana, "Ridge")
    other = stage.api.photo(ben)
    window = stage.open(browser, ana)
    seen.live(window)
    stage.api.like(photo, ben)
    window.until(seen.BADGE, "1")
    window.click("#bell")
    window.until(seen.NOTICES, [f"{ben.name} liked your photo just now"])
    window.until(HEADINGS, ["New"])
    window.press(Keys.ESCAPE)
    window.until(seen.LIST_OPEN, False)
    window.until("document.activeElement.id", "bell")
    stage.api.comment(photo, eve, "So <b>calm</b>")
    stage.api.comment(other, eve, f"@{ana.name} look!")
    stage.api.follow(eve, ana)
    window.until(seen.BADGE, "4")
    window.click("#bell")
    window.until("document.querySelectorAll('.toast').length", 0)
    window.until(
        seen.NOTICES,
        [
            f"{eve.name} started following you just now",
            f"{eve.name} mentioned you\n@{ana.name} look!\njust now",
            f"{eve.name} commented on your photo\nSo <b>calm</b>\njust now",
            f"{ben.name} liked your photo just now",
        ],
    )
    window.until(HEADINGS, ["New", "Earlier"])
    # Arrows move; the one that is opened leads to its photo, and is read.
    window.until(
        "document.activeElement.closest('#rows li') === document.querySelector('#rows li:nth-child(2)')"
    )
    window.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    window.until(seen.PATH, f"/p/{photo.id}")
    window.until(seen.LIST_OPEN, False)
    window.until(seen.BADGE, "3")
    window.click("#bell")
    window.until(UNREAD.replace("#rows li", "#rows li[data-id]"), [True, True, False, True])
    window.until(HEADINGS, [])
    window.click("#rows li[data-id] a")
    window.until(seen.PATH, f"/u/{eve.name}")
    window.until(seen.BADGE, "2")
    window.click("#bell")
    window.click("#read-all")
    window.until(seen.BADGE, "")
    window.until("document.getElementById('read-all').disabled")
    assert seen.faults(browser) == []


# How the tabs of one browser talk; what is for nobody of theirs they pass over.
CHANNEL = """
window.probe = new BroadcastChannel(`notifier ${arguments[0]} ${arguments[1]}`);
window.probe.onmessage = ({data}) => { if (data.to === "a test") window.heard = true; };
"""


def told(one: Window, other: Window, address: str, person: Person) -> None:
    """All that one tab has said until now has come to the other."""
    for window in (one, other):
        window.run(CHANNEL, address, person.id)
    one.run("setTimeout(() => window.probe.postMessage({to: 'a test'}));")
    other.until("window.heard === true", True)


def test_only_an_open_list_is_looked_at(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ana)
    one, two = stage.open(browser, ana), stage.open(browser, ana)
    seen.live(one)
    seen.live(two)
    stage.api.like(photo, ben)
    two.until(seen.BADGE, "1")
    two.point_at("main")
    two.press(Keys.TAB)
    one.until(seen.BADGE, "1")
    # Whoever moved about on a page with a closed list has not seen it: it is new wherever it is opened.
    one.click("#bell")
    one.until(HEADINGS, ["New"])
    one.press(Keys.ESCAPE)
    one.until(seen.LIST_OPEN, False)
    two.click("#bell")
    two.until("document.querySelectorAll('#rows li[data-id]').length", 1)
    two.until(HEADINGS, [])
    # Nor has whoever closed it a moment ago.
    two.press(Keys.ESCAPE)
    two.until(seen.LIST_OPEN, False)
    told(two, one, stage.api.site["websocket"], ana)
    stage.api.follow(ben, ana)
    two.until(seen.BADGE, "2")
    one.click("#bell")
    one.until(HEADINGS, ["New", "Earlier"])


def test_a_comment_of_somebody_else_appears_in_the_open_discussion(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ana)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    seen.live(window)
    stage.api.comment(photo, ben, "While you look")
    window.until(seen.COMMENTS, [f"{ben.name} While you look"])
    window.until("document.querySelectorAll('.comments .bones').length", 0)


def test_a_line_that_breaks_is_shown_and_comes_back(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ana)
    window = stage.open(browser, ana)
    seen.live(window)
    assert window.run("return document.getElementById('bell').dataset.line") == "live"
    stage.daemon.kill()
    window.until("document.getElementById('bell').dataset.line !== 'live'")
    window.click("#bell")
    window.until(f"['Offline', 'Connecting…'].includes({seen.STATE})")
    stage.api.like(photo, ben)  # Redis keeps it
    stage.daemon.start()
    window.run(
        "window.pressing = setInterval(() => { const retry = document.getElementById('retry');"
        "if (!retry.hidden) retry.click(); }, 100)"
    )
    seen.live(window)
    window.run("clearInterval(window.pressing)")
    assert not window.find("#retry").is_displayed()
    window.until("document.getElementById('bell').dataset.line", "live")
    window.until(seen.NOTICES, [f"{ben.name} liked your photo just now"])


def test_the_list_of_whoever_left_is_nobodys_business(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    ben.password = "another one"
    photo = stage.api.photo(ana)
    stage.api.like(photo, ben)
    window = stage.open(browser, ana, "/settings")
    window.until(seen.BADGE, "1")
    window.click("#bell")
    window.until("document.querySelectorAll('#rows li[data-id]').length", 1)
    window.press(Keys.ESCAPE)
    window.click("main > section > .row > .plain")
    window.until(seen.SIGNED_IN, "out")
    assert window.run("return document.querySelectorAll('#rows li').length") == 0
    assert window.run("return document.title.startsWith('(')") is False
    assert not window.find("#phones").is_displayed()
    seen.visit(window, "/login")
    window.write("#field-name", ben.name)
    window.write("#field-password", ben.password)
    window.press(Keys.ENTER)
    seen.live(window)
    window.click("#bell")
    window.until("document.getElementById('no-rows').hidden", False)
    assert window.run("return document.querySelectorAll('#rows li').length") == 0


def test_the_phones_fold_away_and_stay_folded(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    window = stage.open(browser, ana)
    window.until("document.body.dataset.phones", "open")
    assert window.find("#phones iframe").is_displayed()
    window.click("#fold")
    window.until("document.body.dataset.phones", "folded")
    assert not window.find("#phones iframe").is_displayed()
    window.driver.refresh()
    window.until("document.body.dataset.phones", "folded")
    window.click("#fold")
    window.until("document.body.dataset.phones", "open")


def test_without_a_notifier_the_site_is_a_site(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    photo = stage.api.photo(ana)
    told = dict(stage.api.site)
    stage.api.site.clear()
    try:
        window = stage.open(browser, ana)
        window.until(seen.CARDS, [photo.id])
        window.holds(lambda: "GET /api/site" in stage.api.asked, True)
        assert not window.find("#bell").is_displayed()
        assert not window.find("#phones").is_displayed()
        assert seen.faults(browser) == []
    finally:
        stage.api.site.update(told)


def test_a_photo_keeps_up_with_what_comes_together(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben, eve = person("ana"), person("ben"), person("eve")
    photo = stage.api.photo(ana)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    seen.live(window)
    # Slow enough that the second comes while the first is looked at.
    stage.api.slow["GET /api/photos/.*"] = 0.5
    stage.api.like(photo, ben)
    window.holds(lambda: stage.api.asked.count(f"GET /api/photos/{photo.id}"), 2)
    stage.api.like(photo, eve)
    window.until(seen.LIKES, "2 likes")
