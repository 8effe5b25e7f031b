"""The site when things go wrong: what was shown too early goes back, and every failure has words and a way on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from tests.page.chromium import Chromium
from tests.webapp.page import seen
from tests.webapp.page.fake import PART, Person, Refusal
from tests.webapp.page.paintings import painting
from tests.webapp.page.stage import Stage

Named = Callable[[str], Person]
BROKEN = Refusal(500, "a text for developers")
OURS = "Something broke on our side. Your things are safe; try again in a moment."


def test_a_like_that_fails_is_taken_back_and_can_be_tried_again(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ben)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    window.until(seen.HEART, "false")
    with stage.api.refusing("PUT .*/like", BROKEN):
        window.click(".heart")
        window.until(seen.TOASTS, [f"Your like could not be saved. {OURS}"])
        window.until(seen.HEART, "false")
        assert window.run(f"return {seen.LIKES}") == "Be the first to like this"
    window.click(".toast .quiet")
    window.until(seen.LIKES, "1 like")
    window.holds(lambda: list(photo.likes), [ana.id])
    window.until(seen.TOASTS, [])


def test_of_many_wishes_the_last_one_wins(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ben)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    window.until(seen.HEART, "false")
    stage.api.slow[".*/like"] = 0.3
    window.run("const heart = document.querySelector('.heart'); for (let at = 0; at < 4; at++) heart.click()")
    assert window.run(f"return {seen.HEART}") == "false"

    def asked() -> list[str]:
        return [one.split()[0] for one in stage.api.asked if one.endswith("/like")]

    # Never two at once, and nothing that had been overtaken.
    window.holds(asked, ["PUT", "DELETE"])
    window.holds(lambda: list(photo.likes), [])
    window.run("const heart = document.querySelector('.heart'); for (let at = 0; at < 5; at++) heart.click()")
    window.holds(lambda: list(photo.likes), [ana.id])
    window.until(seen.HEART, "true")
    assert asked() == ["PUT", "DELETE", "PUT"]


def test_a_comment_that_fails_comes_back_into_the_field(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ben)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    window.until("document.querySelectorAll('.write textarea').length", 1)
    with stage.api.refusing("POST .*/comments", Refusal(429, "slow down", retry_after=7)):
        window.click(".write textarea")
        window.press("Worth keeping", Keys.ENTER)
        window.until(
            "document.querySelector('.write .fault').textContent",
            "Not posted. That was a bit quick. Try again in 7 s.",
        )
        assert window.run("return document.querySelector('.write textarea').value") == "Worth keeping"
        assert window.run(f"return {seen.COMMENTS}") == []
        assert window.run("return document.querySelectorAll('.pending').length") == 0
    window.click(".write [type=submit]")
    window.until(seen.COMMENTS, [f"{ana.name} Worth keeping"])


def test_a_comment_is_there_while_it_is_posted(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    photo = stage.api.photo(ana)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    window.until("document.querySelectorAll('.write textarea').length", 1)
    stage.api.slow["POST .*/comments"] = 0.4
    window.click(".write textarea")
    window.press("At once", Keys.ENTER)
    assert window.find(".pending").text == f"A\n{ana.name} At once\nposting…"
    window.until(seen.COMMENTS, [f"{ana.name} At once"])
    window.until("document.querySelectorAll('.pending').length", 0)


def test_a_comment_that_cannot_be_deleted_comes_back(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    photo = stage.api.photo(ana)
    for text in ("one", "two", "three"):
        stage.api.comment(photo, ana, text)
    window = stage.open(browser, ana)
    window.until(seen.CARDS, [photo.id])
    seen.visit(window, f"/p/{photo.id}")
    window.until(f"{seen.COMMENTS}.length", 3)
    with stage.api.refusing("DELETE .*/comments/.*", BROKEN):
        window.click(".comment:nth-child(2) .faint")
        window.until(seen.TOASTS, [f"The comment could not be deleted. {OURS}"])
    window.until(seen.COMMENTS, [f"{ana.name} {text}" for text in ("one", "two", "three")])
    window.driver.back()
    window.until("document.querySelector('.discussion > .quiet')?.textContent", "View all 3 comments")


def test_a_follow_that_fails_is_taken_back(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    window = stage.open(browser, ana, f"/u/{ben.name}")
    window.until(seen.FOLLOW, "false")
    with stage.api.refusing("PUT .*/follow", BROKEN):
        window.click(".profile .follow")
        window.until(seen.TOASTS, [f"Following {ben.name} did not work. {OURS}"])
        window.until(seen.FOLLOW, "false")
        window.until(seen.FOLLOWERS, "0 followers")


def test_a_page_of_the_feed_that_fails_is_asked_for_again(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana = person("ana")
    photo = stage.api.photo(ana)
    with stage.api.refusing("GET /api/feed", BROKEN):
        window = stage.open(browser, ana)
        window.until(seen.TROUBLE, OURS)
    window.click(".trouble button")
    window.until(seen.CARDS, [photo.id])
    assert window.run("return document.querySelectorAll('.trouble').length") == 0


def test_without_a_network_there_are_words_for_it(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    photo = stage.api.photo(ana)
    window = stage.open(browser, ana)
    window.until(seen.CARDS, [photo.id])
    window.offline(True)
    seen.visit(window, f"/u/{ana.name}")
    window.until(seen.TROUBLE, "We cannot reach Glimpse. Check your connection and try again.")
    window.offline(False)
    window.click(".trouble button")
    window.until(seen.TILES, [photo.id])


def test_what_is_gone_is_said_to_be_gone(browser: Chromium, stage: Stage, person: Named) -> None:
    window = stage.open(browser, person("ana"), "/p/12345")
    window.until(seen.NOTHING, "This photo is gone")
    seen.visit(window, "/u/nobody.here")
    window.until(seen.NOTHING, "Nobody here is called nobody.here")
    seen.visit(window, "/no/where")
    window.until(seen.NOTHING, "There is nothing here")
    window.click(".nothing .primary")
    window.until(seen.PATH, "/")


def test_files_that_will_not_do_are_refused_with_words(
    browser: Chromium, stage: Stage, person: Named, tmp_path: Path
) -> None:
    text, broken, large = tmp_path / "notes.txt", tmp_path / "broken.png", tmp_path / "large.jpg"
    text.write_text("no picture")
    broken.write_bytes(b"no picture either")
    large.write_bytes(painting(3, (320, 240)) + bytes(21 << 20))
    window = stage.open(browser, person("ana"), "/upload")
    fault = "document.getElementById('share-fault').textContent"
    window.find("#file").send_keys(str(text))
    window.until(fault, "Glimpse takes JPEG, PNG and WebP; “notes.txt” is something else.")
    window.find("#file").send_keys(str(large))
    window.until(fault, "“large.jpg” is 21.0 MB; Glimpse takes up to 20 MB.")
    window.find("#file").send_keys(str(broken))
    window.until(fault, "“broken.png” cannot be shown: is it a photo?")
    assert not window.find(".share .primary").is_enabled()
    assert not any(asked.startswith("POST") for asked in stage.api.asked)


def test_an_upload_that_fails_keeps_photo_and_caption(
    browser: Chromium, stage: Stage, person: Named, tmp_path: Path
) -> None:
    ana = person("ana")
    file = tmp_path / "ridge.jpg"
    file.write_bytes(painting(7))
    window = stage.open(browser, ana, "/upload")
    window.find("#file").send_keys(str(file))
    window.write("#caption", "From the ridge")
    with stage.api.refusing("POST /api/photos", Refusal(422, "This picture has too many pixels.", "file")):
        window.click(".share .primary")
        window.until(
            "document.getElementById('share-fault').textContent",
            "Not shared. This picture has too many pixels.",
        )
    stage.api.slow["POST /api/photos"] = 0.5
    window.click(".share .primary")
    window.click(".share .row .plain")  # cancel
    window.until("document.querySelector('.going').hidden")
    assert window.run("return document.getElementById('share-fault').textContent") == ""
    stage.api.slow.clear()
    window.click(".share .primary")
    window.until(seen.HEADING, f"Photo by {ana.shown}: From the ridge")


# The status that an upload of so many bytes comes to, with that patience (ms); 0: none came.
UPLOAD = """
const [bytes, uploadPatience] = arguments;
window.came = null;
import('/static/api.js').then(({Api}) => {
  const form = new FormData();
  form.append('file', new Blob([new Uint8Array(bytes)]), 'ridge.jpg');
  const api = new Api(() => null, async () => false, {uploadPatience});
  return api.upload('POST', '/api/photos', form).then(() => 200, ({status}) => status);
}).then((status) => { window.came = status; });
"""


def test_a_large_photo_may_take_long_over_a_slow_line(browser: Chromium, stage: Stage, person: Named) -> None:
    """Much longer than nothing may move; what does not fit between here and there moves as it is read there."""
    window = stage.open(browser, None)
    window.until(seen.SIGNED_IN, "out")
    stage.api.reading = lambda: time.sleep(0.6)
    with stage.api.refusing("POST /api/photos", Refusal(413, "all of it is here")):
        window.run(UPLOAD, 16 * PART, 8_000)
        window.until("window.came", 413, 90)


def test_an_upload_that_does_not_move_is_given_up(browser: Chromium, stage: Stage, person: Named) -> None:
    window = stage.open(browser, None)
    window.until(seen.SIGNED_IN, "out")
    over = threading.Event()
    stage.api.reading = over.wait
    with stage.api.refusing("POST /api/photos", Refusal(413, "all of it is here")):
        try:
            window.run(UPLOAD, 16 * PART, 300)
            window.until("window.came", 0)
        finally:
            over.set()


def test_who_leaves_in_one_tab_has_left_in_all(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    one = stage.open(browser, ana)
    two = stage.open(browser, ana, "/settings")
    one.until(seen.SIGNED_IN, "in")
    two.click("main > section > .row > .plain")
    one.until(seen.SIGNED_IN, "out")
    one.until(seen.HEADING, "See what your people see.")


def test_what_others_wrote_is_text(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    evil = stage.api.person("evil.one", "<img src=x onerror=alert(1)>", "<script>alert(2)</script>")
    words = '<img src="x" onerror="document.title=1"> @ana" onclick="x javascript:alert(3)'
    photo = stage.api.photo(evil, words)
    stage.api.comment(photo, evil, words)
    stage.api.follow(ana, evil)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    window.until(seen.COMMENTS, [f"evil.one {words}"])
    assert window.run("return document.querySelector('.caption').textContent") == f"evil.one {words}"
    seen.visit(window, "/u/evil.one")
    window.until("document.querySelector('.bio')?.textContent", "<script>alert(2)</script>")
    seen.visit(window, "/search?q=evil&kind=people")
    window.until("document.querySelector('.results .person b')?.textContent", "<img src=x onerror=alert(1)>")
    assert (
        window.run("return document.querySelectorAll('main script, main [onerror], main [onclick]').length")
        == 0
    )
    assert seen.faults(browser) == []
