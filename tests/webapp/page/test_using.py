"""The site in a real browser, when all goes well: joining, looking, liking, saying, following, sharing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.page.chromium import Chromium
from tests.webapp.page import seen
from tests.webapp.page.fake import Person
from tests.webapp.page.paintings import painting
from tests.webapp.page.stage import Stage

Named = Callable[[str], Person]


def test_a_stranger_joins_finds_somebody_and_sees_their_photos(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana = person("ana")
    photo = stage.api.photo(ana, "First light")
    window = stage.open(browser, None)
    window.until(seen.HEADING, "See what your people see.")
    window.until("document.querySelectorAll('.wall img.there').length", 1)
    window.click(".pitch .primary")
    window.until("document.activeElement.name", "name")
    window.write("#field-name", "Newcomer.1")
    window.write("#field-display_name", "Nico")
    window.write("#field-password", "a sentence is best")
    window.press(Keys.ENTER)
    window.until(seen.SIGNED_IN, "in")
    window.until(seen.NOTHING, "It is quiet in here")
    assert stage.api.people["newcomer.1"].shown == "Nico"
    window.until("document.querySelectorAll('.suggested .follow').length", 1)
    window.click(".suggested .follow")
    window.until("document.querySelector('.suggested .follow').getAttribute('aria-pressed')", "true")
    window.until("document.querySelector('.nothing .primary').textContent", "See your photos")
    window.click(".nothing .primary")
    window.until(seen.CARDS, [photo.id])
    # And they are known at the next visit.
    window.driver.refresh()
    window.until(seen.CARDS, [photo.id])
    window.until("document.querySelector('#own .face').textContent", "N")
    assert seen.faults(browser) == []


def test_who_joins_is_told_what_is_wrong_where_it_is_wrong(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    taken = person("ana")
    window = stage.open(browser, None, "/signup")
    window.write("#field-name", taken.name)
    window.write("#field-password", "a sentence is best")
    window.press(Keys.ENTER)
    window.until("document.getElementById('field-name-fault').textContent", "This name is taken.")
    assert window.find("#field-name").get_attribute("aria-invalid") == "true"
    window.until("document.activeElement.name", "name")
    window.write("#field-name", "free.name")
    window.until("document.getElementById('field-name-fault').textContent", "")
    window.write("#field-password", "short")
    window.press(Keys.ENTER)
    window.until(
        "document.getElementById('field-password-fault').textContent", "Use eight characters at least."
    )


def test_who_logs_in_comes_to_where_they_wanted_to_go(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    ana.password = "the right one"
    window = stage.open(browser, None, "/settings")
    window.until(seen.HEADING, "Welcome back")
    window.write("#field-name", ana.name)
    window.write("#field-password", "the wrong one")
    window.press(Keys.ENTER)
    window.until(
        "document.querySelector('.door-form > .fault').textContent",
        "Name and password do not belong together.",
    )
    window.write("#field-password", ana.password)
    window.press(Keys.ENTER)
    window.until(seen.HEADING, "Settings")
    window.write("#field-bio", "Light and water")
    window.click("main form .primary")
    window.until(seen.TOASTS, ["Saved."])
    assert ana.bio == "Light and water"
    window.click("main > section > .row > .plain")
    window.until(seen.SIGNED_IN, "out")
    window.until(seen.HEADING, "See what your people see.")
    assert window.run("return localStorage.length") <= 1  # whether the phones are folded


def test_a_way_back_to_another_site_is_not_taken(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    ana.password = "the right one"
    window = stage.open(browser, None, "/login?next=//evil.example/")
    window.write("#field-name", ana.name)
    window.write("#field-password", ana.password)
    window.press(Keys.ENTER)
    window.until(seen.SIGNED_IN, "in")
    assert window.run("return location.href") == stage.url + "/"


def test_a_like_by_button_and_by_two_taps(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ben, "Ridge")
    stage.api.follow(ana, ben)
    window = stage.open(browser, ana)
    window.until(seen.LIKES, "Be the first to like this")
    window.click(".heart")
    window.until(seen.LIKES, "1 like")
    window.until(seen.HEART, "true")
    window.holds(lambda: list(photo.likes), [ana.id])
    window.click(".heart")
    window.until(seen.HEART, "false")
    window.holds(lambda: list(photo.likes), [])
    picture = window.find(".picture")
    ActionChains(window.driver).double_click(picture).perform()
    window.until(seen.HEART, "true")
    window.until("document.querySelectorAll('.burst').length <= 1")
    # Two taps on what one likes already take nothing back.
    ActionChains(window.driver).double_click(picture).perform()
    window.until("document.querySelectorAll('.burst').length", 0)
    assert window.run(f"return {seen.HEART}") == "true"
    window.holds(lambda: list(photo.likes), [ana.id])
    window.click(".likes")
    window.until(
        "[...document.querySelectorAll('dialog .person b')].map((name) => name.textContent)", ["Ana"]
    )
    window.press(Keys.ESCAPE)
    window.until("document.querySelectorAll('dialog').length", 0)
    assert seen.faults(browser) == []


def test_comments_are_read_written_and_taken_back_on_the_card(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ben, "Ridge")
    for number in range(25):
        stage.api.comment(photo, ben, f"number {number}")
    stage.api.follow(ana, ben)
    window = stage.open(browser, ana)
    window.until("document.querySelector('.discussion > .quiet')?.textContent", "View all 25 comments")
    window.click(".discussion > .quiet")
    window.until(seen.COMMENTS, [f"{ben.name} number {number}" for number in range(5, 25)])
    window.click(".discussion > .quiet:nth-of-type(2)")
    window.until(seen.COMMENTS, [f"{ben.name} number {number}" for number in range(25)])
    window.click(".write textarea")
    window.press("For @" + ben.name + " <b>bold</b>", Keys.ENTER)
    window.until(f"{seen.COMMENTS}.at(-1)", f"{ana.name} For @{ben.name} <b>bold</b>")
    assert [comment["text"] for comment in photo.comments][-1] == f"For @{ben.name} <b>bold</b>"
    assert window.find(".comment:last-child .mention").get_attribute("href") == f"{stage.url}/u/{ben.name}"
    assert window.run("return document.querySelector('.write textarea').value") == ""
    window.click(".comment:last-child .faint")
    window.until(f"{seen.COMMENTS}.length", 25)
    window.holds(lambda: len(photo.comments), 25)
    assert seen.faults(browser) == []


def test_follow_and_unfollow_on_a_profile(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ben)
    window = stage.open(browser, ana, f"/u/{ben.name}")
    window.until(seen.TILES, [photo.id])
    window.until(seen.FOLLOWERS, "0 followers")
    window.click(".profile .follow")
    window.until(seen.FOLLOW, "true")
    window.until(seen.FOLLOWERS, "1 follower")
    window.holds(lambda: ana.follows, {ben.id})
    window.click(".numbers button")
    window.until(
        "[...document.querySelectorAll('dialog .person b')].map((name) => name.textContent)", ["Ana"]
    )
    window.press(Keys.ESCAPE)
    window.click(".profile .follow")
    window.until(seen.FOLLOW, "false")
    window.holds(lambda: ana.follows, set())


def test_a_photo_is_shared_and_deleted(
    browser: Chromium, stage: Stage, person: Named, tmp_path: Path
) -> None:
    ana = person("ana")
    file = tmp_path / "ridge.jpg"
    file.write_bytes(painting(7))
    stage.api.slow["POST /api/photos"] = 0.3
    window = stage.open(browser, ana, "/upload")
    assert not window.find(".share .primary").is_enabled()
    window.find("#file").send_keys(str(file))
    window.until("document.querySelector('.preview img').naturalWidth > 0")
    window.write("#caption", "From the ridge")
    window.run(
        "window.seen = []; new MutationObserver(() => seen.push(document.querySelector('.going .soft').textContent))"
        ".observe(document.querySelector('.going .soft'), {childList: true})"
    )
    window.click(".share .primary")
    window.until("location.pathname.startsWith('/p/')")
    assert window.run("return window.seen.at(-1)") == "Developing your photo…"
    window.until(seen.HEADING, f"Photo by {ana.shown}: From the ridge")
    window.until("document.querySelector('.single img').naturalWidth > 0")
    assert window.run("return document.title") == f"Photo by {ana.shown}: From the ridge · Glimpse"
    (photo,) = stage.api.photos.values()
    assert photo.caption == "From the ridge"
    window.click(".single .byline .faint")
    window.click("dialog .plain")
    window.until("document.querySelectorAll('dialog').length", 0)
    assert list(stage.api.photos) == [photo.id]
    window.click(".single .byline .faint")
    window.click("dialog .danger")
    window.until(seen.NOTHING, "Your wall is bare")
    assert window.run(f"return {seen.PATH}") == f"/u/{ana.name}"
    assert stage.api.photos == {}
    assert seen.faults(browser) == []


def test_a_photo_is_dropped_anywhere_on_the_page(browser: Chromium, stage: Stage, person: Named) -> None:
    window = stage.open(browser, person("ana"), "/upload")
    window.until(seen.HEADING, "Share a photo")
    window.run(
        "fetch('/static/icon.svg').then(() => {"
        "  const canvas = document.createElement('canvas');"
        "  canvas.toBlob((blob) => {"
        "    const carried = new DataTransfer();"
        "    carried.items.add(new File([blob], 'dropped.png', {type: 'image/png'}));"
        "    dispatchEvent(new DragEvent('drop', {dataTransfer: carried, cancelable: true}));"
        "  });"
        "})"
    )
    window.until("document.querySelector('.preview img')?.alt", "Preview of dropped.png")
    assert window.find(".share .primary").is_enabled()


def test_search_finds_people_and_captions_while_one_types(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana, ben = person("ana"), person("ben")
    fog = stage.api.photo(ben, "Fog again")
    stage.api.photo(ben, "Sun")
    window = stage.open(browser, ana, "/search")
    window.until("document.activeElement.type", "search")
    window.press(ben.name)
    window.until(
        "[...document.querySelectorAll('.results .person a')].map((one) => one.pathname)", [f"/u/{ben.name}"]
    )
    window.until("location.search", f"?q={ben.name}&kind=people")
    window.click("#tab-photos")
    window.until(seen.NOTHING, "Nothing found")
    window.write("input[type=search]", "fog")
    window.until(seen.TILES, [fog.id])
    # The tabs are one stop; arrows move between them.
    window.click("#tab-photos")
    window.press(Keys.ARROW_LEFT)
    window.until("document.activeElement.id", "tab-people")
    window.until(seen.NOTHING, "Nothing found")
    window.until("location.search", "?q=fog&kind=people")


def test_the_feed_grows_and_is_where_it_was_when_one_comes_back(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana, ben = person("ana"), person("ben")
    stage.api.follow(ana, ben)
    picture = painting(1, (320, 240))
    photos = [stage.api.photo(ben, f"number {number}", picture) for number in range(15)][::-1]
    window = stage.open(browser, ana)
    window.until(f"{seen.CARDS}.length >= 6")
    for _ in range(3):
        window.run("scrollTo(0, document.body.scrollHeight)")
        window.until("document.querySelector('.endless').getAttribute('aria-busy')", "false")
    window.until(seen.CARDS, [photo.id for photo in photos])
    window.until("document.querySelector('.end') !== null")
    window.run("scrollTo(0, 1500)")
    window.until("scrollY", 1500)
    seen.visit(window, f"/p/{photos[3].id}")
    window.until(seen.HEADING, f"Photo by {ben.shown}: number 11")
    window.until("scrollY", 0)
    window.click(".single .heart")
    window.until(seen.HEART, "true")
    window.driver.back()
    window.until(seen.CARDS, [photo.id for photo in photos])
    window.until("scrollY", 1500)
    # What was liked there is liked here: it is the same photo.
    window.until("[...document.querySelectorAll('.heart')].map((heart) => heart.ariaPressed)[3]", "true")
    assert sum(asked == "GET /api/feed" for asked in stage.api.asked) == 3
    window.driver.forward()
    window.until(seen.HEADING, f"Photo by {ben.shown}: number 11")


def test_a_comment_that_is_linked_is_sought_and_shown(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ana)
    said = [stage.api.comment(photo, ben, f"number {number}") for number in range(45)]
    window = stage.open(browser, ana, f"/p/{photo.id}#c{said[3]['id']}")
    window.until("document.querySelector('.comment.target .said p')?.textContent", f"{ben.name} number 3")
    window.until(
        "(() => { const {top, bottom} = document.querySelector('.target').getBoundingClientRect();"
        "return top >= 0 && bottom <= innerHeight; })()"
    )
    # Whose photo it is may take away what others said of it.
    window.find(".comment.target .faint").click()
    window.holds(lambda: len(photo.comments), 44)
    assert said[3] not in photo.comments


def test_a_stranger_who_likes_something_comes_back_to_it(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana, ben = person("ana"), person("ben")
    ana.password = "the right one"
    photo = stage.api.photo(ben)
    window = stage.open(browser, None, f"/p/{photo.id}")
    window.until(seen.LIKES, "Be the first to like this")
    assert window.find(".invite").text == "Log in to comment."
    window.click(".heart")
    window.until(seen.HEADING, "Welcome back")
    window.write("#field-name", ana.name)
    window.write("#field-password", ana.password)
    window.press(Keys.ENTER)
    window.until(seen.HEART, "false")
    window.click(".heart")
    window.holds(lambda: list(photo.likes), [ana.id])
    window.until(seen.PATH, f"/p/{photo.id}")
