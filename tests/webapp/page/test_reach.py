"""The site for every hand, eye and screen: keys, names for what is pressed, room on small screens, still pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selenium.webdriver.common.keys import Keys

from tests.page.chromium import Chromium, Window
from tests.webapp.page import seen
from tests.webapp.page.fake import Person
from tests.webapp.page.paintings import painting
from tests.webapp.page.stage import Stage

Named = Callable[[str], Person]
SIZES = {"phone": (390, 844), "small phone": (320, 640), "tablet": (820, 1180), "desk": (1280, 800)}
FOCUS = "document.activeElement"
# What has no name for whoever does not see it (WCAG 2.2, 1.1.1, 2.4.6, 4.1.2), as far as a script can tell.
UNNAMED = """
const shown = (node) => node.checkVisibility() && !node.closest('[aria-hidden=true]');
const named = (node) => (node.getAttribute('aria-label') ?? '') || node.textContent.trim()
  || [...node.querySelectorAll('img')].some((picture) => picture.alt) || node.title;
const labelled = (node) => node.getAttribute('aria-label') || document.querySelector(`label[for="${node.id}"]`);
return [
  ...[...document.querySelectorAll('a, button')].filter((node) => shown(node) && !named(node)),
  ...[...document.querySelectorAll('input, textarea')].filter((node) => shown(node) && !labelled(node)),
  ...[...document.querySelectorAll('img')].filter((node) => !node.hasAttribute('alt')),
].map((node) => node.outerHTML.slice(0, 200));
"""
DOUBLED = """
const ids = [...document.querySelectorAll('[id]')].map(({id}) => id);
return ids.filter((id, at) => ids.indexOf(id) !== at);
"""
# Contrast of text with what is behind it (WCAG 1.4.3), where that is a colour: a picture cannot be told.
PALE = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgb(colour) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}
const light = ([red, green, blue]) => [red, green, blue].map((part) => part / 255)
  .map((part) => (part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4))
  .reduce((sum, part, at) => sum + part * [.2126, .7152, .0722][at], 0);
function behind(node) {
  for (let at = node; at; at = at.parentElement) {
    const {backgroundColor, backgroundImage} = getComputedStyle(at);
    if (backgroundImage !== 'none') return null;
    if (rgb(backgroundColor)[3] === 255) return rgb(backgroundColor);
  }
  return [255, 255, 255, 255];
}
const found = [];
for (const node of document.querySelectorAll('body *')) {
  const words = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!words || !node.checkVisibility({opacityProperty: true})) continue;
  if (node.closest('.unseen, .bone, .counts, .pending, :disabled, .word')) continue;
  const ground = behind(node);
  if (ground === null) continue;
  const [one, two] = [light(rgb(getComputedStyle(node).color)), light(ground)];
  const ratio = (Math.max(one, two) + .05) / (Math.min(one, two) + .05);
  if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${node.outerHTML.slice(0, 120)}`);
}
return found;
"""


def furnish(stage: Stage, person: Named) -> tuple[Person, dict[str, str]]:
    """Somebody with a life, and the pages they may look at."""
    ana, ben = person("ana"), person("ben")
    ana.bio = ben.bio = (
        "Light, water, early mornings.\nA_very_long_word_that_nobody_would_ever_write_but_somebody_will_some_day"
    )
    stage.api.follow(ana, ben)
    photos = [stage.api.photo(ben, "Fog again. " * 30, painting(number, (320, 400))) for number in range(5)]
    stage.api.photo(ana, "wide", painting(9, (900, 300)))
    for _ in range(3):
        stage.api.comment(photos[0], ben, "W" * 120)
        stage.api.comment(photos[0], ana, "Mine")
    pages = {
        "feed": "/", "discover": "/discover", "photo": f"/p/{photos[0].id}", "profile": f"/u/{ben.name}",
        "own profile": f"/u/{ana.name}", "people": "/search?q=b&kind=people", "photos": "/search?q=fog&kind=photos",
        "upload": "/upload", "settings": "/settings", "missing": "/no/where",
    }  # fmt: skip
    return ana, pages


def arrived(window: Window) -> None:
    window.until("document.querySelector('main h1') !== null")
    window.until("document.querySelectorAll('main .bone').length", 0)


@pytest.mark.parametrize("size", list(SIZES))
def test_every_page_fits_and_everything_has_a_name(
    browser: Chromium, stage: Stage, person: Named, size: str
) -> None:
    width, height = SIZES[size]
    ana, pages = furnish(stage, person)
    window = stage.open(browser, ana, "/", width, height)
    seen.live(window)
    for name, path in pages.items():
        seen.visit(window, path)
        arrived(window)
        assert window.run("return document.documentElement.scrollWidth <= innerWidth"), name
        assert window.run(UNNAMED) == [], name
        assert window.run(DOUBLED) == [], name
        assert window.run("return document.querySelectorAll('main h1').length") == 1, name
    assert seen.faults(browser) == []


@pytest.mark.parametrize("size", ["phone", "desk"])
def test_the_door_fits_and_everything_has_a_name(
    browser: Chromium, stage: Stage, person: Named, size: str
) -> None:
    furnish(stage, person)
    window = stage.open(browser, None, "/", *SIZES[size])
    for path in ("/", "/login", "/signup", "/discover"):
        seen.visit(window, path)
        arrived(window)
        assert window.run("return document.documentElement.scrollWidth <= innerWidth"), path
        assert window.run(UNNAMED) == [], path
        assert window.run(DOUBLED) == [], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(
    browser: Chromium, stage: Stage, person: Named, scheme: str
) -> None:
    ana, pages = furnish(stage, person)
    window = stage.open(browser, ana)
    window.prefers(color_scheme=scheme, reduced_motion="reduce")
    for name, path in pages.items():
        seen.visit(window, path)
        arrived(window)
        window.until("document.getAnimations().filter(({playState}) => playState === 'running').length", 0)
        assert window.run(PALE) == [], name


def test_the_whole_site_by_keys(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    stage.api.follow(ana, ben)
    photos = [stage.api.photo(ben, str(number)) for number in range(3)][::-1]
    window = stage.open(browser, ana)
    window.until(f"{seen.CARDS}.length", 3)
    window.press(Keys.TAB)
    window.until(f"{FOCUS}.className", "skip")
    window.press(Keys.ENTER)
    window.until(f"{FOCUS}.id", "main")
    # From photo to photo, and a like.
    window.press(Keys.TAB)
    window.until(f"{FOCUS}.dataset.photo", photos[0].id)
    window.press(Keys.PAGE_DOWN)
    window.until(f"{FOCUS}.dataset.photo", photos[1].id)
    window.press("l")
    window.holds(lambda: list(photos[1].likes), [ana.id])
    window.press("c")
    window.until(f"{FOCUS}.tagName", "TEXTAREA")
    window.press("cool l", Keys.ENTER)
    window.holds(lambda: [comment["text"] for comment in photos[1].comments], ["cool l"])
    assert list(photos[1].likes) == [ana.id]
    window.run("document.activeElement.closest('article').focus()")
    window.press(Keys.PAGE_UP)
    window.until(f"{FOCUS}.dataset.photo", photos[0].id)
    window.press(Keys.ENTER)
    window.until(seen.PATH, f"/p/{photos[0].id}")
    # A new page begins at its beginning, for the keyboard too.
    window.until(f"{FOCUS}.id", "main")


def test_what_is_focused_is_seen(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, _ = furnish(stage, person)
    window = stage.open(browser, ana)
    arrived(window)
    unseen = []
    for _ in range(24):
        window.press(Keys.TAB)
        plain = window.run(
            "const node = document.activeElement; if (node === document.body || node.tagName === 'IFRAME') return null;"
            "const {outlineStyle, boxShadow} = getComputedStyle(node);"
            "if (outlineStyle !== 'none' || boxShadow !== 'none' || node.closest('.write')) return null;"
            "return node.outerHTML.slice(0, 150)"
        )
        if plain:
            unseen.append(plain)
    assert unseen == []


def test_a_dialog_keeps_the_focus_and_gives_it_back(browser: Chromium, stage: Stage, person: Named) -> None:
    ana, ben = person("ana"), person("ben")
    photo = stage.api.photo(ana)
    stage.api.like(photo, ben)
    window = stage.open(browser, ana, f"/p/{photo.id}")
    window.until(seen.LIKES, "1 like")
    window.click(".likes")
    window.until("document.querySelectorAll('dialog .person').length", 1)
    for _ in range(4):
        window.press(Keys.TAB)
        assert window.run(
            "return document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    window.press(Keys.ESCAPE)
    window.until(f"{FOCUS}.className", "likes")


def test_whoever_wants_no_motion_gets_none(browser: Chromium, stage: Stage, person: Named) -> None:
    ana = person("ana")
    stage.api.photo(ana)
    window = stage.open(browser, ana)
    window.until(f"{seen.CARDS}.length", 1)
    window.prefers(reduced_motion="reduce")
    window.click(".heart")
    window.until(seen.HEART, "true")
    assert (
        float(
            window.run("return getComputedStyle(document.querySelector('.heart .icon')).animationDuration")[
                :-1
            ]
        )
        < 0.001
    )
