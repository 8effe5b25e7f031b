"""The page without a mouse, without colours, for ears, on a phone, in the dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selenium.webdriver.common.keys import Keys

from tests.page.chromium import Chromium, Window
from tests.page.rig import Rig
from tests.page.test_page import BADGE, CLASSES, live, shows

Named = Callable[[str], str]
WIDTHS = {"phone": (390, 844), "tablet": (820, 1100), "desktop": (1280, 900)}

# The focused element in words, and whether its focus can be seen.
FOCUS = """const at = document.activeElement;
const shown = at.matches('.kinds input') ? at.nextElementSibling : at;
const style = getComputedStyle(shown);
return [at.id || at.className.split(' ')[0] || at.name || at.localName,
  style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 || at.matches('input:not([type])')];"""

# WCAG 2.2, success criterion 1.4.3: each text against what lies behind it.
CONTRASTS = """
const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
const over = (colours) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (colour) => {
  const linear = (one) => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4;
  const [r, g, b] = colour.map((one) => linear(one / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_ALL);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const field = node.nodeType === 1 && node.matches('input:not([type=radio], [type=checkbox]), textarea') && node.value;
  const text = field || (node.nodeType === 3 && node.textContent.trim());
  const at = node.nodeType === 3 ? node.parentElement : node;
  if (!text || !at.checkVisibility({visibilityProperty: true}) || at.closest('.hidden, template, script')) continue;
  const behind = [];
  for (let one = at; one; one = one.parentElement) behind.unshift(getComputedStyle(one).backgroundColor);
  const paper = over(['white', ...behind]);
  const ink = over([`rgb(${paper})`, getComputedStyle(at).color]);
  const [one, other] = [light(ink), light(paper)].sort((x, y) => y - x);
  found.push([text.slice(0, 30), Math.round((one + .05) / (other + .05) * 100) / 100]);
}
return found;"""


def full(browser: Chromium, rig: Rig, person: Named, size: str = "desktop") -> Window:
    """A page that shows all there is: read and unread rows, new ones where nobody looks yet, a fault, a result."""
    ana, ben = person("ana"), person("ben")
    for photo in "12":
        rig.like(ana, photo)
    window = browser.open(rig.address(ana, ben), *WIDTHS[size])
    live(window, 2)
    shows(window, "2", "1")
    window.click(".open")
    window.until(CLASSES.format(at=0), ["", "unread"])
    rig.like(ana, "3")
    rig.like(ben, "4")
    shows(window, "3", "2", "1")
    shows(window, "4", at=1)
    window.click("#send .primary")
    window.until("document.getElementById('sent').textContent.startsWith('Accepted')")
    window.write("#object", "photo")
    window.click("#send .primary")
    window.run("document.querySelector('details').open = true")
    return window


def test_by_keyboard_alone(browser: Chromium, rig: Rig, person: Named) -> None:
    ana = person("ana")
    rig.like(ana, "1")
    rig.like(ana, "2")
    window = browser.open(rig.address(ana))
    live(window)
    shows(window, "2", "1")
    walk = []
    for _ in range(18):
        window.press(Keys.TAB)
        name, visible = window.run(FOCUS)
        assert visible or name == "body", f"the focus on {name} cannot be seen"
        walk.append(name)
    assert walk == [
        "user", "bell", "read-all", "open", "delete", "open", "delete",
        "kind", "from", "swap", "to", "object", "undo", "primary", "summary",
        "body", "user", "bell",
    ]  # fmt: skip
    # Enter on a row: read. Space on its cross: gone, and the keyboard is on the row that follows.
    window.press(Keys.TAB, Keys.TAB, Keys.ENTER)
    window.until(CLASSES.format(at=0), ["", "unread"])
    window.press(Keys.TAB, Keys.SPACE)
    shows(window, "1")
    assert window.run(FOCUS)[0] == "delete"
    # Escape closes the panel and gives the keyboard back to the bell; Enter and Space open and close it.
    window.press(Keys.ESCAPE)
    assert window.run(FOCUS)[0] == "bell"
    for key, expanded in ((Keys.ENTER, "true"), (Keys.SPACE, "false"), (Keys.SPACE, "true")):
        window.press(key)
        assert window.find(".bell").get_attribute("aria-expanded") == expanded
        assert window.find(".panel").is_displayed() == (expanded == "true")
    window.press(Keys.TAB, Keys.ENTER)
    window.until(CLASSES.format(at=0), [""])
    # Publishing, too.
    window.find("#from").send_keys(Keys.ENTER)
    shows(window, "99", "1")


def test_a_row_that_arrives_does_not_take_the_keyboard_away(
    browser: Chromium, rig: Rig, person: Named
) -> None:
    ana = person("ana")
    rig.like(ana, "1")
    window = browser.open(rig.address(ana))
    live(window)
    shows(window, "1")
    window.run("document.querySelector('.open').focus()")
    rig.like(ana, "2")
    shows(window, "2", "1")
    assert window.run("return document.activeElement.closest('li').querySelector('.did').textContent") == (
        " liked your photo 1"
    )


def test_everything_that_can_be_used_has_a_name(browser: Chromium, rig: Rig, person: Named) -> None:
    window = full(browser, rig, person)
    names = {}
    for control in window.all("button, input, textarea, summary, section, ul.list, pre"):
        if control.is_displayed():
            names[control.get_attribute("outerHTML") or ""] = control.accessible_name
    assert len(names) > 20
    assert [html for html, name in names.items() if not name.strip()] == []
    rows = [button.accessible_name for button in window.all(".person:first-child .open")]
    assert [row.split(". ")[0] for row in rows] == ["Unread", "Unread", "Read", "Unread"]
    assert "zoe liked your photo 3" in rows[1]
    crosses = [button.accessible_name for button in window.all(".person:first-child .delete")]
    assert crosses[1] == "Delete: zoe liked your photo 3"
    new = window.find(".person:nth-child(2) .open").accessible_name
    assert new.startswith("New, unread. zoe liked your photo 4")
    window.until(BADGE.format(at=0), "3")
    assert window.find(".bell").accessible_name.endswith(", 3 unread")


def test_what_happens_is_said(browser: Chromium, rig: Rig, person: Named) -> None:
    """Regions that a screen reader follows; the seconds of the countdown are not in one."""
    window = full(browser, rig, person)
    live_regions = {
        "#toasts": "status", "#sent": "status", ".fault": "alert", ".state [role]": "status",
    }  # fmt: skip
    for selector, role in live_regions.items():
        assert window.find(selector).get_attribute("role") == role, selector
    assert window.find(".rest").get_attribute("aria-hidden") == "true"
    assert window.run("return document.documentElement.lang") == "en"
    levels = window.run("return [...document.querySelectorAll('h1, h2')].map((one) => one.localName)")
    assert levels == ["h1", "h2", "h2", "h2"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_to_read(browser: Chromium, rig: Rig, person: Named, scheme: str) -> None:
    window = full(browser, rig, person)
    window.prefers(color_scheme=scheme, reduced_motion="reduce")
    found = window.run(CONTRASTS)
    assert len(found) > 40
    assert [one for one in found if one[1] < 4.5] == []
    for state in ("connecting", "offline", "stopped"):
        window.run(
            "document.querySelectorAll('.state').forEach((line) => line.dataset.state = arguments[0])", state
        )
        assert [one for one in window.run(CONTRASTS) if one[1] < 4.5] == [], state
    back = window.run("return getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(16, 17, 23)") == (scheme == "dark")


def test_motion_can_be_refused(browser: Chromium, rig: Rig, person: Named) -> None:
    window = full(browser, rig, person)
    moving = "return [...document.querySelectorAll('*')].some((one) => getComputedStyle(one).animationName !== 'none')"
    window.run("document.querySelector('li').classList.add('fresh')")
    window.prefers(reduced_motion="no-preference")
    assert window.run(moving) is True
    window.prefers(reduced_motion="reduce")
    assert window.run(moving) is False


@pytest.mark.parametrize("size", WIDTHS)
def test_it_fits_the_screen(browser: Chromium, rig: Rig, person: Named, size: str) -> None:
    window = full(browser, rig, person, size)
    assert (
        window.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    )
    outside = """return [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() &&
      one.getBoundingClientRect().right > innerWidth + .5).map((one) => one.outerHTML.slice(0, 80))"""
    assert window.run(outside) == []
    # WCAG 2.2, success criterion 2.5.8: 24 pixels at least.
    small = """return [...document.querySelectorAll('button, input, textarea, summary')]
      .filter((one) => one.checkVisibility()).map((one) => one.closest('label') ?? one)
      .map((one) => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
      .filter(([, box]) => box.width < 24 || box.height < 24).map(([html]) => html)"""
    assert window.run(small) == []


def test_on_a_phone_one_person_is_shown_at_a_time(browser: Chromium, rig: Rig, person: Named) -> None:
    window = full(browser, rig, person, "phone")
    people, buttons = window.all(".person"), window.all("#switch button")
    assert [one.is_displayed() for one in people] == [True, False]
    assert buttons[0].accessible_name.endswith(", 3 unread")
    buttons[1].click()
    assert [one.is_displayed() for one in people] == [False, True]
    assert [one.get_attribute("aria-pressed") for one in buttons] == ["false", "true"]


def test_the_page_brings_all_it_needs(browser: Chromium, rig: Rig, person: Named) -> None:
    window = full(browser, rig, person)
    loaded = window.run(
        "return performance.getEntriesByType('resource').map((one) => new URL(one.name).host)"
    )
    assert set(loaded) == {rig.url.split("/")[2]}
    assert window.run("return document.querySelector('link[rel=icon]').href").startswith(
        "data:image/svg+xml,"
    )
    assert browser.log() == []
