"""The demo's page in a real browser: what comes while it is open, and what it shows when the line breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.page.chromium import Chromium, Window
from tests.page.rig import Rig

Named = Callable[[str], str]

# What a person (the first on the page, or the one at `at`) is shown.
ROWS = "[...document.querySelectorAll('.person')[{at}].querySelectorAll('.did')].map((row) => row.textContent.trim())"
CLASSES = (
    "[...document.querySelectorAll('.person')[{at}].querySelectorAll('li')]"
    ".map((row) => row.className.replace(/ ?fresh/, ''))"
)
STATE = "document.querySelectorAll('.state')[{at}].dataset.state"
BADGE = "document.querySelectorAll('.bell .badge')[{at}].textContent"
TOASTS = "[...document.querySelectorAll('#toasts p')].map((toast) => toast.textContent)"
# From now on: every state that the first person's connection is shown in.
WATCH = """window.states = [];
const line = document.querySelector('.state');
new MutationObserver(() => window.states.push(line.innerText)).observe(line, {subtree: true, childList: true,
  characterData: true, attributes: true});"""


def shows(window: Window, *photos: str, at: int = 0) -> None:
    """These photos are liked, newest first, and nothing else."""
    window.until(ROWS.format(at=at), [f"liked your photo {photo}" for photo in photos])


def live(window: Window, people: int = 1) -> None:
    for at in range(people):
        window.until(STATE.format(at=at), "live")


def faults(browser: Chromium) -> list[str]:
    """What the consoles say beyond what the network itself is bound to say."""
    return [line for line in browser.log() if "net::ERR_" not in line]


def test_an_event_published_on_the_page_arrives_on_it(browser: Chromium, rig: Rig, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    window = browser.open(rig.address(ana, ben))
    live(window, 2)
    assert window.run("return document.title") == "notifier demo"
    assert window.find("#from").get_attribute("value") == ben
    assert window.find("#to").get_attribute("value") == ana
    window.click("#send .primary")
    shows(window, "99")
    window.until(BADGE.format(at=0), "1")
    window.until("document.title", "(1) notifier demo")
    window.until(TOASTS, [f"For {ana}: {ben} liked your photo 99"])
    assert window.find("#sent").text.startswith("Accepted as entry ")
    window.click("#swap")
    window.click("input[value=comment]")
    window.write("#text", "<b>so</b> nice")
    window.click("#send .primary")
    window.until(ROWS.format(at=1), ["commented on your photo 99"])
    assert window.find(".person:nth-child(2) .text").text == "<b>so</b> nice"
    window.until("document.title", "(2) notifier demo")
    assert browser.log() == []


def test_what_is_taken_back_goes(browser: Chromium, rig: Rig, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    window = browser.open(rig.address(ana, ben))
    live(window, 2)
    window.click("#send .primary")
    shows(window, "99")
    window.click("#undo")
    window.click("#send .primary")
    shows(window)
    window.until("document.title", "notifier demo")


def test_two_people_side_by_side_have_each_their_own(browser: Chromium, rig: Rig, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    window = browser.open(rig.address(ana, ben))
    live(window, 2)
    rig.like(ana, "1")
    rig.like(ben, "2")
    rig.like(ben, "3")
    shows(window, "1")
    shows(window, "3", "2", at=1)
    window.until(CLASSES.format(at=1), ["unread unseen"] * 2)
    # Whoever looks at the one list has not looked at the other.
    window.point_at(".person:nth-child(2) .count")
    window.until(CLASSES.format(at=1), ["unread"] * 2)
    assert window.run(f"return {CLASSES.format(at=0)}") == ["unread unseen"]
    window.click(".person:nth-child(2) li:first-child .open")
    window.until(CLASSES.format(at=1), ["", "unread"])
    window.click(".person:nth-child(2) .read-all")
    window.until(CLASSES.format(at=1), ["", ""])
    window.click(".person:nth-child(2) li:first-child .delete")
    shows(window, "2", at=1)
    shows(window, "1")


def test_a_closed_list_is_not_looked_at(browser: Chromium, rig: Rig, person: Named) -> None:
    window = browser.open(rig.address(person("ana")))
    live(window)
    window.click(".bell")
    assert not window.find(".panel").is_displayed()
    rig.like(window.find(".user").get_attribute("value") or "", "1")
    window.until(BADGE.format(at=0), "1")
    window.point_at(".head .face")
    window.until(CLASSES.format(at=0), ["unread unseen"])
    window.click(".bell")
    window.until(CLASSES.format(at=0), ["unread"])


def test_another_name_is_another_person(browser: Chromium, rig: Rig, person: Named) -> None:
    ana, ben, eve = person("ana"), person("ben"), person("eve")
    rig.like(eve, "5")
    window = browser.open(rig.address(ana, ben))
    live(window, 2)
    window.write(".user", eve + "\n")
    shows(window, "5")
    assert window.run("return location.search") == f"?user={eve}&user={ben}"
    assert window.find("#to").get_attribute("value") == eve
    rig.like(ana, "6")
    rig.like(eve, "7")
    shows(window, "7", "5")
    window.write(".user", "no one\n")
    window.until("document.querySelector('.fault').textContent.includes('“no one” is no user id')")
    shows(window, "7", "5")


def test_the_windows_of_one_person_agree_and_share_a_connection(
    browser: Chromium, rig: Rig, person: Named
) -> None:
    ana = person("ana")
    one = browser.open(rig.address(ana))
    live(one)
    other = browser.open(rig.address(ana))
    live(other)
    assert [window.run("return window.sockets") for window in (one, other)] == [1, 0]
    for photo in "123":
        rig.like(ana, photo)
    for window in (one, other):
        shows(window, "3", "2", "1")
        window.until("document.title", "(3) notifier demo")
    other.click("li:nth-child(2) .open")
    for window in (one, other):
        window.until("document.title", "(2) notifier demo")
        window.until(f"{CLASSES.format(at=0)}.map((name) => name.includes('unread'))", [True, False, True])
    one.click("li:nth-child(3) .delete")
    shows(other, "3", "2")
    one.click(".read-all")
    other.until("document.title", "notifier demo")
    # The window with the connection goes; the other goes on.
    one.close()
    rig.like(ana, "4")
    shows(other, "4", "3", "2")
    assert other.run("return window.sockets") == 1


def test_a_daemon_that_is_killed_is_told_and_what_came_meanwhile_comes_once(
    browser: Chromium, rig: Rig, person: Named
) -> None:
    ana = person("ana")
    window = browser.open(rig.address(ana))
    live(window)
    rig.like(ana, "1")
    shows(window, "1")
    window.run(WATCH)
    rig.daemon.kill()
    window.until(STATE.format(at=0), "offline")
    window.until("/^offline: retry in \\d+ s/.test(document.querySelector('.state').innerText)")
    assert window.find(".retry").text == "Retry now"
    shows(window, "1")
    for photo in "23":
        rig.like(ana, photo)
    rig.daemon.start()
    live(window)
    rig.like(ana, "4")
    shows(window, "4", "3", "2", "1")
    window.until("document.title", "(4) notifier demo")
    assert window.run("return new Set(window.states.map((state) => state.split(/[:\\n]/)[0])).size") >= 2
    assert faults(browser) == []


def test_offline_and_back(browser: Chromium, rig: Rig, person: Named) -> None:
    ana = person("ana")
    window = browser.open(rig.address(ana))
    live(window)
    rig.like(ana, "1")
    shows(window, "1")
    window.offline(True)
    # The switch leaves open WebSockets alone: the daemon's end ends this one, and no other gets out.
    rig.daemon.kill()
    rig.daemon.start()
    window.until(STATE.format(at=0), "offline")
    rig.like(ana, "2")
    window.click(".retry")
    window.until(STATE.format(at=0), "offline")
    shows(window, "1")
    window.offline(False)
    live(window)
    shows(window, "2", "1")
    assert faults(browser) == []


@pytest.mark.parametrize("lost", ["the inbox", "all of Redis"])
def test_after_a_loss_the_list_is_loaded_anew(browser: Chromium, rig: Rig, person: Named, lost: str) -> None:
    ana = person("ana")
    window = browser.open(rig.address(ana))
    live(window)
    for photo in "12":
        rig.like(ana, photo)
    shows(window, "2", "1")
    window.run(WATCH)
    if lost == "the inbox":
        assert rig.redis.call("DEL", f"inbox:{{0}}:{ana}") == 1
    else:
        rig.daemon.kill()
        rig.redis.call("FLUSHALL")
        rig.daemon.start()
    rig.like(ana, "3")
    shows(window, "3")
    window.until("document.title", "(1) notifier demo")
    live(window)
    assert "resyncing" in window.run("return window.states")
    rig.like(ana, "4")
    shows(window, "4", "3")


def test_the_form_says_what_is_wrong(browser: Chromium, rig: Rig, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    window = browser.open(rig.address(ana, ben))
    live(window, 2)
    wrong = [
        ("#from", "", "From: a user id is needed"),
        ("#to", " ", "To: for whom?"),
        ("#to", "a b, c/d", "To: “c/d” is no user id"),
        ("#to", ben, "To: nobody hears of what they did themselves"),
        ("#object", "photo", "Object: a type and an id are needed"),
    ]
    for field, text, said in wrong:
        before = window.find(field).get_attribute("value") or ""
        window.write(field, text)
        window.click("#send .primary")
        fault = window.find(f"{field}-fault")
        assert fault.text.startswith(said), text
        assert window.find(field).get_attribute("aria-invalid") == "true"
        assert window.find(field).get_attribute("aria-describedby") == fault.get_attribute("id")
        assert window.run("return document.activeElement.id") == field[1:]
        window.write(field, before + "\t")
        assert not fault.is_displayed()
    # What only the server knows.
    window.run("document.getElementById('to').value = arguments[0]", " ".join(map(str, range(1001))))
    window.click("#send .primary")
    window.until(
        "document.getElementById('sent').textContent.startsWith('Not published: too_many_recipients')"
    )
    window.write("#to", ana)
    rig.refusal = "OOM command not allowed"
    window.click("#send .primary")
    window.until("document.getElementById('sent').textContent.endsWith('OOM command not allowed')")
    rig.refusal = ""
    window.click("#send .primary")
    shows(window, "99")


def test_a_stopped_line_says_why_and_starts_again(browser: Chromium, rig: Rig, person: Named) -> None:
    ana = person("ana")
    window = browser.open(rig.address(ana))
    live(window)
    rig.redis.call("SET", f"revoked:{{0}}:{ana}", "1", "EX", "60")
    rig.redis.call("PUBLISH", "notifier:control", f"revoke {ana}")
    window.until(STATE.format(at=0), "stopped")
    window.until("document.querySelector('.fault').textContent.startsWith('Not connected: ')")
    rig.redis.call("DEL", f"revoked:{{0}}:{ana}")
    window.click(".retry")
    live(window)
    assert not window.find(".fault").is_displayed()


def test_times_are_relative(browser: Chromium, rig: Rig, person: Named) -> None:
    ana = person("ana")
    window = browser.open(rig.address(ana))
    live(window)
    for photo in "12":
        rig.like(ana, photo)
    shows(window, "2", "1")
    assert [time.text for time in window.all("time")] == ["just now"] * 2
    ago = "return import('/words.js').then(({ago}) => arguments[0].map((s) => ago(new Date(1e12 - s * 1e3), 1e12)))"
    assert window.run(ago, [-5, 9, 45, 100, 7_200, 86_400 * 3]) == [
        "just now", "just now", "45 seconds ago", "2 minutes ago", "2 hours ago", "3 days ago"
    ]  # fmt: skip


def test_a_page_that_is_earlier_than_the_daemon_waits_for_it(
    browser: Chromium, rig: Rig, person: Named
) -> None:
    rig.mute = True
    window = browser.open(rig.address(person("ana")))
    window.until(STATE.format(at=0), "offline")
    window.until("document.querySelector('.state').title", "the notifier daemon is not ready yet; try again")
    for _ in range(3):
        window.click(".retry")
    rig.mute = False
    live(window)
    assert window.run("return window.sockets") == 1
    assert not window.find(".retry").is_displayed()


def test_a_demo_that_comes_back_elsewhere_is_found(browser: Chromium, rig: Rig, person: Named) -> None:
    ana = person("ana")
    one = browser.open(rig.address(ana))
    other = browser.open(rig.address(ana))
    live(one)
    live(other)
    rig.like(ana, "1")
    shows(one, "1")
    one.until(TOASTS, [f"For {ana}: zoe liked your photo 1"])
    rig.move()
    rig.like(ana, "2")
    for window in (one, other):
        live(window)
        shows(window, "2", "1")
    one.until(f"{TOASTS}.includes('For {ana}: zoe liked your photo 1')", False)  # they do not stay


def test_many_at_once_are_all_there_in_order(browser: Chromium, rig: Rig, person: Named) -> None:
    ana = person("ana")
    window = browser.open(rig.address(ana))
    live(window)
    photos = [str(number) for number in range(120)]
    for photo in photos:
        rig.like(ana, photo)
    shows(window, *photos[:-101:-1])  # an inbox keeps 100
    window.until(BADGE.format(at=0), "99+")
