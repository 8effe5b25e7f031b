"""Staying signed in: tokens are renewed unseen, in all tabs; where that fails a question is asked, and nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver.common.keys import Keys

from tests.client import token
from tests.page.chromium import Chromium, Window
from tests.webapp.page import seen
from tests.webapp.page.fake import Person, Refusal
from tests.webapp.page.paintings import painting
from tests.webapp.page.stage import KEPT, Stage

Named = Callable[[str], Person]
DIALOG = "document.querySelector('dialog.again h2')?.textContent ?? ''"
ENDED = "Your session has ended"
FIELD = "document.querySelector('.write textarea')?.value"


def kept(window: Window) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(window.run("return localStorage.getItem(arguments[0])", KEPT))
    return found


def renewals(stage: Stage) -> int:
    return stage.api.asked.count("POST /api/session/renewal")


def end(stage: Stage, window: Window) -> None:
    """The token that the browser has is taken no longer."""
    stage.api.ended.add(kept(window)["token"])


def test_a_token_that_has_ended_is_renewed_unseen(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    photo = stage.api.photo(ana)
    window = stage.open(browser, ana, f"/p/{photo.id}", renewal=f"renewal {ana.id} 0")
    window.until(FIELD, "")
    end(stage, window)
    window.click(".write textarea")
    window.press("Still here", Keys.ENTER)
    window.until(seen.COMMENTS, [f"{ana.name} Still here"])
    assert renewals(stage) == 1
    assert kept(window)["token"] not in stage.api.ended
    assert window.run(f"return {DIALOG}") == ""
    assert len(photo.comments) == 1


def test_an_upload_is_sent_again_with_the_new_token(
    browser: Chromium, stage: Stage, person: Named, tmp_path: Path
) -> None:
    ana = person("ana")
    file = tmp_path / "ridge.jpg"
    file.write_bytes(painting(7))
    window = stage.open(browser, ana, "/upload", renewal=f"renewal {ana.id} 0")
    window.find("#file").send_keys(str(file))
    window.write("#caption", "From the ridge")
    end(stage, window)
    window.click(".share .primary")
    window.until(seen.HEADING, f"Photo by {ana.shown}: From the ridge")
    assert len(stage.api.photos) == 1


def test_it_is_renewed_before_it_ends(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    ana.password = "the right one"
    stage.api.life = 8.0  # renewed after six
    window = stage.open(browser, None, "/login")
    window.until(seen.HEADING, "Welcome back")
    window.write("#field-name", ana.name)
    window.write("#field-password", ana.password)
    window.press(Keys.ENTER)
    window.until(seen.SIGNED_IN, "in")
    first = kept(window)["token"]
    stage.api.life = 3600.0
    window.holds(lambda: renewals(stage), 1)
    window.until(f"JSON.parse(localStorage.getItem('{KEPT}')).token !== '{first}'")
    assert first not in stage.api.ended


def test_tabs_renew_once_for_all(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ben)
    windows = [stage.open(browser, ana, f"/p/{photo.id}", renewal=f"renewal {ana.id} 0") for _ in range(3)]
    for window in windows:
        window.until(seen.HEART, "false")
    end(stage, windows[0])
    stage.api.slow["POST /api/session/renewal"] = 0.5
    for window in windows:
        window.run("document.querySelector('.heart').click()")
    for window in windows:
        window.until(seen.HEART, "true")
    window.holds(lambda: list(photo.likes), [ana.id])
    window.holds(lambda: stage.api.asked.count(f"PUT /api/photos/{photo.id}/like") >= 4, True)
    assert renewals(stage) == 1


def test_what_a_tab_hears_late_of_its_person_brings_no_old_token_back(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana = person("ana")
    window = stage.open(browser, ana, renewal=f"renewal {ana.id} 0")
    window.until(seen.SIGNED_IN, "in")
    # Another tab has renewed it; this one has not heard of it yet, as events of storage come to other tabs only.
    window.run(
        "const kept = JSON.parse(localStorage.getItem(arguments[0])); kept.token = 'x.y.z';"
        "localStorage.setItem(arguments[0], JSON.stringify(kept))",
        KEPT,
    )
    window.run("import('/static/session.js').then(({session}) => session.update({bio: 'new'}))")
    window.until(f"JSON.parse(localStorage.getItem('{KEPT}')).person.bio", "new")
    assert kept(window)["token"] == "x.y.z"


def test_when_it_cannot_be_renewed_the_password_is_asked_for_and_nothing_lost(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana = person("ana")
    ana.password = "the right one"
    photo = stage.api.photo(ana)
    window = stage.open(browser, ana, f"/p/{photo.id}", renewal=f"renewal {ana.id} 0")
    window.until(FIELD, "")
    end(stage, window)
    stage.api.ended.add(f"renewal {ana.id} 0")
    window.click(".write textarea")
    window.press("Worth keeping", Keys.ENTER)
    window.until(DIALOG, ENDED)
    assert window.run("return document.activeElement.name") == "password"
    window.press("the wrong one", Keys.ENTER)
    window.until(
        "document.querySelector('dialog .fault[role=alert]').textContent",
        "Name and password do not belong together.",
    )
    window.write("dialog [name=password]", ana.password)
    window.press(Keys.ENTER)
    window.until(DIALOG, "")
    window.until(seen.COMMENTS, [f"{ana.name} Worth keeping"])
    assert len(photo.comments) == 1
    assert window.run(f"return {seen.PATH}") == f"/p/{photo.id}"
    assert seen.faults(browser) == []


def test_who_does_not_want_to_keeps_what_they_wrote(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    ana.password = "the right one"
    photo = stage.api.photo(ana)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    window.until(FIELD, "")
    end(stage, window)
    window.click(".write textarea")
    window.press("Worth keeping", Keys.ENTER)
    window.until(DIALOG, ENDED)
    window.click("dialog .row .plain")
    window.until(DIALOG, "")
    window.until(FIELD, "Worth keeping")
    window.until("document.querySelector('.write .fault').textContent", "Not posted. Please log in again.")
    window.click(".write [type=submit]")
    window.until(DIALOG, ENDED)
    window.write("dialog [name=password]", ana.password)
    window.press(Keys.ENTER)
    window.until(seen.COMMENTS, [f"{ana.name} Worth keeping"])


def test_who_logs_in_in_one_tab_is_back_in_all(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    ana.password = "the right one"
    photo = stage.api.photo(ben)
    one, two = (stage.open(browser, ana, f"/p/{photo.id}") for _ in range(2))
    for window in (one, two):
        window.until(seen.HEART, "false")
    end(stage, one)
    for window in (one, two):
        window.run("document.querySelector('.heart').click()")
        window.until(DIALOG, ENDED)
    one.write("dialog [name=password]", ana.password)
    one.press(Keys.ENTER)
    for window in (one, two):
        window.until(DIALOG, "")
        window.until(seen.HEART, "true")
    assert list(photo.likes) == [ana.id]


def test_somebody_else_may_log_in(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    window = stage.open(browser, ana, f"/u/{ana.name}")
    window.until(seen.SIGNED_IN, "in")
    end(stage, window)
    seen.visit(window, "/")
    window.until(DIALOG, ENDED)
    window.click("dialog a")
    window.until(seen.SIGNED_IN, "out")
    window.until(seen.HEADING, "See what your people see.")


def test_without_an_answer_nobody_is_asked_to_log_in(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ben)
    window = stage.open(browser, ana, f"/p/{photo.id}", renewal=f"renewal {ana.id} 0")
    window.until(seen.HEART, "false")
    end(stage, window)
    with stage.api.refusing("POST /api/session/renewal", Refusal(503, "away")):
        window.click(".heart")
        window.until(f"{seen.TOASTS}.length", 1)
        window.until(seen.HEART, "false")
        assert window.run(f"return {DIALOG}") == ""
    window.click(".toast .quiet")
    window.until(seen.HEART, "true")
    window.holds(lambda: list(photo.likes), [ana.id])


def test_what_was_posted_though_the_answer_was_lost_is_not_posted_twice(
    browser: Chromium, stage: Stage, person: Named, tmp_path: Path
) -> None:
    ana = person("ana")
    file = tmp_path / "ridge.jpg"
    file.write_bytes(painting(7))
    window = stage.open(browser, ana, "/upload")
    window.find("#file").send_keys(str(file))
    stage.api.losing = {"POST .*"}
    window.click(".share .primary")
    window.until("document.getElementById('share-fault').textContent.startsWith('Not shared.')")
    stage.api.losing = set()
    window.click(".share .primary")
    window.until(seen.HEADING, f"Photo by {ana.shown}")
    (photo,) = stage.api.photos.values()

    stage.api.losing = {"POST .*"}
    window.click(".write textarea")
    window.press("Once", Keys.ENTER)
    window.until("document.querySelector('.write .fault').textContent.startsWith('Not posted.')")
    stage.api.losing = set()
    window.click(".write [type=submit]")
    window.until(seen.COMMENTS, [f"{ana.name} Once"])
    # Said once more on purpose, it is another.
    window.click(".write textarea")
    window.press("Once", Keys.ENTER)
    window.until(seen.COMMENTS, [f"{ana.name} Once"] * 2)
    assert len(photo.comments) == 2
    assert seen.faults(browser) == []


# As if another tab did it while the answer of the renewal, or of what else is asked for, is on its way: a tab is not
# told of what it stores itself, and of another's not before its own script is done.
MEANWHILE = """
const [key, kept, asked = '/renewal'] = arguments;
const send = window.fetch;
window.fetch = async (path, how) => {
  const answer = await send(path, how);
  if (path.endsWith(asked)) {
    if (kept === null) localStorage.removeItem(key); else localStorage.setItem(key, kept);
  }
  return answer;
};
"""


def test_who_left_in_another_tab_is_not_brought_back_by_a_renewal(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana = person("ana")
    photo = stage.api.photo(person("ben"))
    window = stage.open(browser, ana, f"/p/{photo.id}", renewal=f"renewal {ana.id} 0")
    window.until(seen.HEART, "false")
    end(stage, window)
    window.run(MEANWHILE, KEPT, None)
    window.click(".heart")
    window.until(seen.SIGNED_IN, "out")
    assert renewals(stage) == 1
    assert window.run("return localStorage.getItem(arguments[0])", KEPT) is None
    assert window.run(f"return {DIALOG}") == ""
    assert photo.likes == {}


def test_who_came_in_in_another_tab_is_not_put_out_by_a_renewal(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    """Nor is it they who do what the other one wanted."""
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(person("cleo"))
    window = stage.open(browser, ana, f"/p/{photo.id}", renewal=f"renewal {ana.id} 0")
    window.until(seen.HEART, "false")
    end(stage, window)
    known = {"token": token(ben.id), "person": ben.brief}
    window.run(MEANWHILE, KEPT, json.dumps(known))
    window.click(".heart")
    window.until("document.getElementById('own').pathname", f"/u/{ben.name}")
    assert renewals(stage) == 1
    assert {name: kept(window)[name] for name in known} == known
    assert photo.likes == {}
    assert stage.api.asked.count(f"PUT /api/photos/{photo.id}/like") == 1


def test_where_nothing_is_kept_a_renewal_ends_nothing(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    ana.password = "the right one"
    photo = stage.api.photo(person("ben"))
    window = stage.open(browser, None, "/login")
    window.until(seen.HEADING, "Welcome back")
    window.run("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }")
    window.write("#field-name", ana.name)
    window.write("#field-password", ana.password)
    window.press(Keys.ENTER)
    window.until(seen.SIGNED_IN, "in")
    stage.api.ended.add(window.run("return import('/static/session.js').then(({session}) => session.token)"))
    seen.visit(window, f"/p/{photo.id}")
    window.until(seen.HEART, "false")
    window.click(".heart")
    window.until(seen.HEART, "true")
    window.holds(lambda: list(photo.likes), [ana.id])
    assert renewals(stage) == 1


def test_logging_out_everywhere(browser: Chromium, stage: Stage, person: Named) -> None:
    """By keys alone; what renewed tokens does so no more."""
    ana = person("ana")
    one = stage.open(browser, ana, renewal=f"renewal {ana.id} 0")
    two = stage.open(browser, ana, "/settings", renewal=f"renewal {ana.id} 0")
    for window in (one, two):
        window.until(seen.SIGNED_IN, "in")
    two.run("document.querySelector('main > section > .row > .plain').focus()")
    two.press(Keys.TAB)
    two.until("document.activeElement.textContent", "Log out everywhere")
    two.press(Keys.ENTER)
    two.until("document.querySelector('dialog h2')?.textContent", "Log out everywhere?")
    two.until("document.activeElement.textContent", "Cancel")
    two.press(Keys.ENTER)
    two.until("document.querySelector('dialog') === null")
    assert two.run("return document.activeElement.textContent") == "Log out everywhere"
    assert stage.api.ended == set()
    two.press(Keys.ENTER)
    two.until("document.activeElement.textContent", "Cancel")
    two.press(Keys.TAB, Keys.ENTER)
    for window in (one, two):
        window.until(seen.SIGNED_IN, "out")
    assert stage.api.ended == {f"all of {ana.id}"}
    assert seen.faults(browser) == []


def test_who_cannot_log_out_everywhere_is_told(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    window = stage.open(browser, ana, "/settings")
    window.until(seen.SIGNED_IN, "in")
    with stage.api.refusing("POST /api/session/end", Refusal(503, "away")):
        window.click("main > section > .row > .plain:last-child")
        window.click("dialog .danger")
        window.until(f"{seen.TOASTS}[0]?.startsWith('You are still logged in.')")
    assert window.run(f"return {seen.SIGNED_IN}") == "in"
