"""Another password, from the settings: who stays in with it, who does not, and what is said when it is refused."""

from __future__ import annotations

from collections.abc import Callable

from selenium.webdriver.common.keys import Keys

from tests.page.chromium import Chromium, Window
from tests.webapp.page import seen
from tests.webapp.page.fake import Person, Refusal
from tests.webapp.page.real import RealSite
from tests.webapp.page.stage import KEPT, Stage
from tests.webapp.page.test_staying import MEANWHILE, kept
from tests.webapp.page.test_two_people import join

Named = Callable[[str], Person]
OLD, NEW = "the password of ana", "a longer sentence of ana"
CHANGED = "Your password is changed. Other devices ask for it within a day."
OLD_FAULT, NEW_FAULT = (
    f"document.getElementById('field-{name}-fault')?.textContent" for name in ("old", "new")
)
FAULT = "document.querySelector('form[aria-labelledby=password-title] > .fault').textContent"
FOCUSED = "document.activeElement.name"
PUT = "PUT /api/me/password"


def change(window: Window, old: str, new: str) -> None:
    window.until("document.querySelectorAll('#field-old, #field-new').length", 2)
    window.write("#field-old", old)
    window.write("#field-new", new)
    window.press(Keys.ENTER)


def log_in(window: Window, password: str) -> None:
    window.write("#field-name", "ana")
    window.write("#field-password", password)
    window.press(Keys.ENTER)


def renews(window: Window) -> int:
    """The status that the real API gives to the renewal that a browser keeps."""
    status: int = window.driver.execute_async_script(
        "const [renewal, done] = arguments; const headers = {'Content-Type': 'application/json'};"
        "fetch('/api/session/renewal', {method: 'POST', headers, body: JSON.stringify({renewal})})"
        ".then(({status}) => done(status))",
        kept(window)["renewal"],
    )
    return status


def test_a_new_password_keeps_this_browser_in_and_no_other(
    site: RealSite, two: tuple[Chromium, Chromium]
) -> None:
    here = join(two[0], site, "ana")
    there = two[1].open(site.url + "/login")
    there.until(seen.HEADING, "Welcome back")
    log_in(there, OLD)
    there.until(seen.SIGNED_IN, "in")
    seen.visit(here, "/settings")
    change(here, "the password of ben", NEW)
    here.until(OLD_FAULT, "this is not your password")
    here.until(FOCUSED, "old")
    change(here, OLD, "n" * 201)
    here.until(NEW_FAULT, "use at most 200 characters")
    here.until(FOCUSED, "new")
    assert renews(there) == 200
    change(here, OLD, NEW)
    here.until(seen.TOASTS, [CHANGED])
    assert here.run("return [...document.querySelectorAll('[type=password]')].map(({value}) => value)") == [
        "",
        "",
    ]
    assert (renews(here), renews(there)) == (200, 401)
    here.driver.refresh()
    here.until(seen.SIGNED_IN, "in")
    seen.live(here)

    there.run("localStorage.clear()")
    there.driver.get(site.url + "/login")
    there.until(seen.HEADING, "Welcome back")
    log_in(there, OLD)
    there.until(
        "document.querySelector('.door-form > .fault').textContent", "The name or the password is wrong."
    )
    log_in(there, NEW)
    there.until(seen.SIGNED_IN, "in")
    for browser in two:
        assert seen.faults(browser) == []


def test_what_cannot_be_right_is_not_sent(browser: Chromium, stage: Stage, person: Named) -> None:
    window = stage.open(browser, person("ana"), "/settings")
    change(window, "", "short")
    window.until(OLD_FAULT, "This is needed.")
    window.until(NEW_FAULT, "Use eight characters at least.")
    window.until(FOCUSED, "old")
    assert window.run(
        "return [...document.querySelectorAll('[aria-invalid=true]')].map(({name}) => name)"
    ) == [
        "old",
        "new",
    ]
    assert PUT not in stage.api.asked


def test_fields_say_what_they_are_for(browser: Chromium, stage: Stage, person: Named) -> None:
    """To people who do not see them, and to password managers, which also want to know whose it is."""
    ana = person("ana")
    window = stage.open(browser, ana, "/settings")
    window.until("document.querySelectorAll('#field-old, #field-new').length", 2)
    assert (window.find("#field-old").accessible_name, window.find("#field-new").accessible_name) == (
        "Your password now",
        "New password",
    )
    assert window.run(
        "return [...document.querySelector('#field-old').form.elements].filter(({name}) => name)"
        ".map(({autocomplete, value}) => [autocomplete, value])"
    ) == [["username", ana.name], ["current-password", ""], ["new-password", ""]]
    told = window.run(
        "return document.getElementById('field-new').getAttribute('aria-describedby').split(' ')"
        ".map((id) => document.getElementById(id).textContent).join('')"
    )
    assert told.endswith("You stay logged in here; every other device asks for it within a day.")


def test_who_has_guessed_too_often_is_told_to_wait(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    ana.password = OLD
    window = stage.open(browser, ana, "/settings")
    with stage.api.refusing(PUT, Refusal(429, "slow down", retry_after=7)):
        change(window, OLD, NEW)
        window.until(FAULT, "That was a bit quick. Try again in 7 s.")
    assert window.find("#field-new").get_property("value") == NEW
    window.press(Keys.ENTER)
    window.until(seen.TOASTS, [CHANGED])
    window.until(FAULT, "")
    assert ana.password == NEW


def test_other_tabs_of_this_browser_stay_in(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    ana.password = OLD
    one, two = (stage.open(browser, ana, "/settings", renewal=f"renewal {ana.id} 0") for _ in range(2))
    first = kept(one)["token"]
    change(two, OLD, NEW)
    two.until(seen.TOASTS, [CHANGED])
    token = kept(two)["token"]
    assert token != first
    one.until(seen.SIGNED_IN, "in")
    one.until("import('/static/session.js').then(({session}) => session.token)", token)


def test_who_left_in_another_tab_is_not_brought_back_by_a_new_password(
    browser: Chromium, stage: Stage, person: Named
) -> None:
    ana = person("ana")
    ana.password = OLD
    window = stage.open(browser, ana, "/settings")
    window.until(seen.SIGNED_IN, "in")
    window.run(MEANWHILE, KEPT, None, "/password")
    change(window, OLD, NEW)
    window.until(seen.SIGNED_IN, "out")
    assert ana.password == NEW
    assert window.run("return localStorage.getItem(arguments[0])", KEPT) is None
