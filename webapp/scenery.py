"""Pictures for a site that has none yet: landscapes drawn from a number, the same for the same number."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Final, NamedTuple

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

__all__ = ["SCENES", "draw", "face"]


class Palette(NamedTuple):
    """The sky from top to horizon, the light in it, and the land from far to near."""

    sky: tuple[Colour, ...]
    light: Colour
    land: tuple[Colour, ...]


DAWN: Final = Palette(
    ((58, 72, 120), (196, 128, 140), (250, 190, 140)),
    (255, 236, 200),
    ((150, 120, 145), (98, 84, 120), (40, 40, 72)),
)
DAY: Final = Palette(
    ((64, 128, 196), (140, 190, 226), (226, 238, 240)),
    (255, 252, 236),
    ((146, 176, 186), (84, 128, 120), (36, 76, 64)),
)
DUSK: Final = Palette(
    ((38, 28, 76), (150, 60, 110), (246, 128, 86)),
    (255, 206, 140),
    ((120, 62, 104), (74, 40, 84), (26, 18, 44)),
)
NIGHT: Final = Palette(
    ((8, 12, 34), (20, 34, 72), (54, 78, 118)), (244, 240, 214), ((38, 54, 86), (22, 32, 58), (8, 12, 26))
)
MIST: Final = Palette(
    ((190, 200, 206), (212, 218, 220), (232, 232, 226)),
    (255, 255, 250),
    ((176, 188, 194), (128, 146, 152), (72, 92, 98)),
)
AUTUMN: Final = Palette(
    ((120, 160, 190), (200, 206, 196), (246, 226, 190)),
    (255, 244, 214),
    ((176, 130, 100), (160, 88, 50), (84, 44, 32)),
)
PALETTES: Final = (DAWN, DAY, DUSK, NIGHT, MIST, AUTUMN)


def draw(scene: str, number: int, size: tuple[int, int] = (1200, 1500)) -> bytes:
    """A JPEG of a scene of SCENES; `size` in pixels."""
    chance = Random(f"{scene} {number}")
    palette = chance.choice(_SKIES.get(scene, PALETTES))
    return _encoded(SCENES[scene](chance, palette, size))


def face(number: int, side: int = 480) -> bytes:
    """A JPEG to stand for a person: a few soft shapes in colours of their own."""
    chance = Random(f"face {number}")
    hue = chance.randrange(360)
    picture = Image.new("RGB", (side, side), _hsl(hue, 55, 62))
    for step in range(4):
        shape, pen = _layer((side, side))
        radius = side * chance.uniform(0.25, 0.5)
        x, y = (side * chance.uniform(0.1, 0.9) for _ in range(2))
        _disc(pen, x, y, radius)
        shape = shape.filter(ImageFilter.GaussianBlur(side / 60))
        colour = _hsl((hue + 40 * step + chance.randrange(30)) % 360, 70, 45 + 10 * step)
        picture.paste(colour, mask=shape.point(lambda level: int(level * 0.75)))
    return _encoded(picture)


# --- Scenes --------------------------------------------------------------------------------------------


def _mountains(chance: Random, palette: Palette, size: tuple[int, int]) -> Image.Image:
    width, height = size
    picture = _sky(palette, size, chance)
    _sun(picture, palette, chance, 0.2, 0.45)
    _clouds(picture, chance, palette.light, 0.5)
    for at, colour in enumerate(_between(palette.land, 5)):
        level = height * (0.42 + 0.12 * at)
        ridge = _ridge(chance, width, height * (0.16 - 0.02 * at), 1.9 - 0.1 * at)
        _fill(
            picture, [(x, level - y) for x, y in ridge], colour, haze=palette.sky[-1], depth=0.4 - 0.08 * at
        )
    return picture


def _sea(chance: Random, palette: Palette, size: tuple[int, int]) -> Image.Image:
    width, height = size
    horizon = int(height * chance.uniform(0.46, 0.6))
    picture = _sky(palette, (width, horizon), chance)
    x, _, radius = _sun(picture, palette, chance, 0.55, 0.85)
    _clouds(picture, chance, palette.light, 0.6)
    water = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((width, height - horizon))
    water = Image.blend(water, Image.new("RGB", water.size, palette.land[1]), 0.45)
    whole = Image.new("RGB", size)
    whole.paste(picture, (0, 0))
    whole.paste(water.filter(ImageFilter.GaussianBlur(6)), (0, horizon))
    _glitter(whole, chance, palette.light, (x, horizon), radius)
    if chance.random() < 0.6:
        _boat(whole, chance, palette.land[2], horizon)
    return whole


def _forest(chance: Random, palette: Palette, size: tuple[int, int]) -> Image.Image:
    width, height = size
    picture = _sky(palette, size, chance)
    _sun(picture, palette, chance, 0.15, 0.35)
    for at, colour in enumerate(_between(palette.land, 5)):
        level = height * (0.44 + 0.13 * at)
        hill = [(x, level - y) for x, y in _ridge(chance, width, height * 0.06, 1.5)]
        layer, pen = _layer(size)
        pen.polygon([*hill, (width, height), (0, height)], fill=255)
        for _ in range(int(60 - 8 * at)):
            x, y = hill[chance.randrange(len(hill))]
            _fir(pen, x, y + height * 0.01, height * (0.05 + 0.035 * at) * chance.uniform(0.7, 1.3))
        picture.paste(_hazy(colour, palette.sky[-1], 0.5 - 0.12 * at), mask=layer)
        _mist(picture, level + height * 0.1, palette.sky[-1], 0.25 - 0.04 * at)
    return picture


def _city(chance: Random, palette: Palette, size: tuple[int, int]) -> Image.Image:
    width, height = size
    picture = _sky(palette, size, chance)
    _sun(picture, palette, chance, 0.2, 0.5)
    lit = palette in (NIGHT, DUSK)
    for at, colour in enumerate(_between(palette.land, 4)):
        pen, x = ImageDraw.Draw(picture), -chance.uniform(0, 60)
        shade = _hazy(colour, palette.sky[-1], 0.4 - 0.12 * at)
        while x < width:
            broad, tall = width * chance.uniform(0.06, 0.13), height * chance.uniform(0.1, 0.34)
            top = height * (0.62 + 0.1 * at) - tall
            pen.rectangle((x, top, x + broad, height), fill=shade)
            if chance.random() < 0.3:
                pen.line((x + broad / 2, top, x + broad / 2, top - height * 0.05), fill=shade, width=4)
            _windows(pen, chance, (x, top, x + broad, height), palette.light, 0.5 if lit else 0.06)
            x += broad + chance.choice((0, 0, 4, 14))
    return picture


def _dunes(chance: Random, palette: Palette, size: tuple[int, int]) -> Image.Image:
    width, height = size
    picture = _sky(palette, size, chance)
    _sun(picture, palette, chance, 0.15, 0.4)
    for at, colour in enumerate(_between(tuple(_warm(colour) for colour in palette.land), 5)):
        level, swell = height * (0.48 + 0.11 * at), height * 0.07
        turn, waves = chance.uniform(0, 6.3), chance.uniform(0.7, 1.6)
        crest = [
            (
                x,
                level
                - swell * math.sin(turn + waves * 6.3 * x / width)
                - swell * 0.3 * math.sin(3 * turn + 9 * x / width),
            )
            for x in range(0, width + 8, 8)
        ]
        _fill(picture, crest, colour, haze=palette.sky[-1], depth=0.3 - 0.06 * at)
        _fill(picture, [(x, y + swell * (0.5 + x / width)) for x, y in crest], _darker(colour, 0.86))
    return picture


def _aurora(chance: Random, palette: Palette, size: tuple[int, int]) -> Image.Image:
    width, height = size
    picture = _sky(NIGHT, size, chance)
    for colour in ((70, 230, 160), (60, 180, 220), (150, 90, 210)):
        layer, pen = _layer(size)
        turn, foot = chance.uniform(0, 6.3), height * chance.uniform(0.4, 0.55)
        for x in range(0, width, 6):
            bottom = (
                foot + height * 0.08 * math.sin(turn + 7 * x / width) + 20 * math.sin(turn + 31 * x / width)
            )
            top = bottom - height * (0.25 + 0.1 * math.sin(2 * turn + 5 * x / width))
            pen.line((x, top, x, bottom), fill=int(110 + 70 * math.sin(turn + 17 * x / width)), width=7)
        glow = layer.filter(ImageFilter.GaussianBlur(26))
        lit = Image.composite(Image.new("RGB", size, colour), Image.new("RGB", size), glow)
        picture = ImageChops.screen(picture, lit)
    for at, shade in enumerate(((16, 28, 48), (6, 10, 20))):
        ridge = _ridge(chance, width, height * 0.1, 1.7)
        _fill(picture, [(x, height * (0.72 + 0.12 * at) - y) for x, y in ridge], shade)
    return picture


def _lake(chance: Random, palette: Palette, size: tuple[int, int]) -> Image.Image:
    width, height = size
    shore = int(height * 0.54)
    above = _mountains(chance, palette, (width, int(shore * 1.35))).crop((0, 0, width, shore))
    mirror = above.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((width, height - shore))
    ripples = mirror.filter(ImageFilter.GaussianBlur(3))
    for y in range(0, ripples.height, 3):
        shift = int(5 * math.sin(y / 7) * (0.3 + y / ripples.height))
        ripples.paste(ImageChops.offset(ripples.crop((0, y, width, y + 3)), shift, 0), (0, y))
    whole = Image.new("RGB", size)
    whole.paste(above, (0, 0))
    whole.paste(Image.blend(ripples, Image.new("RGB", ripples.size, palette.land[2]), 0.18), (0, shore))
    ImageDraw.Draw(whole).line(
        (0, shore, width, shore), fill=_hazy(palette.land[2], palette.sky[-1], 0.3), width=3
    )
    return whole


SCENES: Final[Mapping[str, Callable[[Random, Palette, tuple[int, int]], Image.Image]]] = {
    "mountains": _mountains, "sea": _sea, "forest": _forest, "city": _city, "dunes": _dunes, "aurora": _aurora,
    "lake": _lake,
}  # fmt: skip
_SKIES: Final[Mapping[str, Sequence[Palette]]] = {
    "city": (DUSK, NIGHT, DAWN, MIST),
    "dunes": (DAWN, DAY, DUSK, AUTUMN),
    "forest": (DAWN, MIST, AUTUMN, DUSK, DAY),
    "lake": (DAWN, DAY, AUTUMN, DUSK),
}


# --- Strokes -------------------------------------------------------------------------------------------


def _layer(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    layer = Image.new("L", size)
    return layer, ImageDraw.Draw(layer)


def _sky(palette: Palette, size: tuple[int, int], chance: Random) -> Image.Image:
    column = Image.new("RGB", (1, 64))
    for y, colour in enumerate(_between(palette.sky, 64)):
        column.putpixel((0, y), colour)
    picture = column.resize(size, Image.Resampling.BICUBIC)
    if palette is NIGHT:
        pen = ImageDraw.Draw(picture)
        for _ in range(260):
            x, y = chance.random() * size[0], chance.random() ** 1.4 * size[1] * 0.7
            _disc(pen, x, y, chance.choice((0.6, 0.9, 1.6)), (220, 226, 240))
    return picture


def _sun(
    picture: Image.Image, palette: Palette, chance: Random, high: float, low: float
) -> tuple[float, float, float]:
    width, height = picture.size
    x, y = width * chance.uniform(0.2, 0.8), height * chance.uniform(high, low)
    radius = width * chance.uniform(0.05, 0.09)
    for spread, strength in ((5.0, 0.22), (2.4, 0.35)):
        layer, pen = _layer((width // 8, height // 8))
        _disc(pen, x / 8, y / 8, radius * spread / 8)
        glow = layer.filter(ImageFilter.GaussianBlur(radius * spread / 24)).resize(picture.size)
        picture.paste(palette.light, mask=glow.point(lambda level, part=strength: int(level * part)))
    disc, pen = _layer(picture.size)
    _disc(pen, x, y, radius)
    picture.paste(palette.light, mask=disc.filter(ImageFilter.GaussianBlur(1.5)))
    return x, y, radius


def _clouds(picture: Image.Image, chance: Random, light: Colour, most: float) -> None:
    width, height = picture.size
    layer, pen = _layer((width // 4, height // 4))
    for _ in range(chance.randrange(2, 6)):
        x, y = chance.random() * width / 4, chance.uniform(0.05, most) * height / 4
        for _ in range(14):
            broad = chance.uniform(10, 46)
            left, top = x + chance.uniform(-50, 50), y + chance.uniform(-4, 4)
            pen.ellipse((left, top, left + broad, top + broad * 0.16), fill=chance.randrange(60, 150))
    picture.paste(light, mask=layer.filter(ImageFilter.GaussianBlur(3)).resize(picture.size))


def _ridge(chance: Random, width: int, tall: float, rough: float) -> list[tuple[float, float]]:
    """A line of peaks by halving: each half of a stretch is moved by less than the stretch."""
    heights, step = [chance.uniform(-0.4, 0.4) * tall, chance.uniform(-0.4, 0.4) * tall], tall
    while len(heights) < 200:
        finer: list[float] = []
        for one, other in pairwise(heights):
            finer += (one, (one + other) / 2 + chance.uniform(-step, step))
        heights = [*finer, heights[-1]]
        step /= rough
    return [(width * at / (len(heights) - 1), level) for at, level in enumerate(heights)]


def _fill(
    picture: Image.Image, crest: Sequence[tuple[float, float]], colour: Colour, haze: Colour | None = None,
    depth: float = 0.0,
) -> None:  # fmt: skip
    """All that is below a line."""
    width, height = picture.size
    layer, pen = _layer(picture.size)
    pen.polygon([*crest, (width, height), (0, height)], fill=255)
    picture.paste(
        _hazy(colour, haze, depth) if haze else colour, mask=layer.filter(ImageFilter.GaussianBlur(0.8))
    )


def _mist(picture: Image.Image, level: float, colour: Colour, strength: float) -> None:
    width, height = picture.size
    layer, pen = _layer((8, height // 8))
    pen.rectangle((0, (level - height * 0.05) / 8, 8, (level + height * 0.05) / 8), fill=255)
    layer = layer.filter(ImageFilter.GaussianBlur(height / 160)).resize((width, height))
    picture.paste(colour, mask=layer.point(lambda at: int(at * max(0.0, strength))))


def _fir(pen: ImageDraw.ImageDraw, x: float, foot: float, tall: float) -> None:
    for part in range(4):
        top, broad = foot - tall + tall * 0.2 * part, tall * (0.1 + 0.05 * part)
        pen.polygon([(x, top), (x - broad, top + tall * 0.4), (x + broad, top + tall * 0.4)], fill=255)


def _glitter(
    picture: Image.Image, chance: Random, light: Colour, place: tuple[float, int], radius: float
) -> None:
    x, horizon = place
    layer, pen = _layer(picture.size)
    for _ in range(420):
        far = chance.random() ** 1.6
        y = horizon + far * (picture.height - horizon)
        spread = radius * (0.6 + 3 * far)
        left, long = x + chance.gauss(0, spread * 0.5), 10 + 60 * far
        pen.line((left - long, y, left + long, y), fill=chance.randrange(70, 220), width=1 + int(3 * far))
    picture.paste(light, mask=layer.filter(ImageFilter.GaussianBlur(1)))


def _boat(picture: Image.Image, chance: Random, colour: Colour, horizon: int) -> None:
    pen, long = ImageDraw.Draw(picture), picture.width * chance.uniform(0.04, 0.08)
    x, y = picture.width * chance.uniform(0.2, 0.8), horizon + picture.height * chance.uniform(0.03, 0.12)
    pen.polygon(
        [(x - long, y), (x + long, y), (x + long * 0.7, y + long * 0.3), (x - long * 0.7, y + long * 0.3)],
        fill=colour,
    )
    pen.polygon([(x, y - long * 0.1), (x, y - long * 1.7), (x + long * 0.8, y - long * 0.1)], fill=colour)


def _windows(
    pen: ImageDraw.ImageDraw,
    chance: Random,
    house: tuple[float, float, float, float],
    light: Colour,
    share: float,
) -> None:
    left, top, right, bottom = house
    y = top + 14
    while y < min(bottom, top + 700):
        x = left + 10
        while x < right - 12:
            if chance.random() < share * 0.5:
                pen.rectangle((x, y, x + 6, y + 9), fill=light)
            x += 15
        y += 20


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int | Colour = 255) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


# --- Colours -------------------------------------------------------------------------------------------


def _between(colours: Sequence[Colour], count: int) -> list[Colour]:
    """`count` colours from the first to the last."""
    found = []
    for at in range(count):
        place = at / max(1, count - 1) * (len(colours) - 1)
        index = min(int(place), len(colours) - 2)
        found.append(_hazy(colours[index], colours[index + 1], place - index))
    return found


def _hazy(colour: Colour, haze: Colour, depth: float) -> Colour:
    red, green, blue = (
        round(one + (other - one) * max(0.0, depth)) for one, other in zip(colour, haze, strict=True)
    )
    return red, green, blue


def _darker(colour: Colour, part: float) -> Colour:
    return _hazy((0, 0, 0), colour, part)


def _warm(colour: Colour) -> Colour:
    return _hazy(colour, (226, 150, 90), 0.55)


def _hsl(hue: float, saturation: float, lightness: float) -> Colour:
    """CSS Color 4 section 7: degrees, per cent, per cent."""
    low = saturation * min(lightness, 100 - lightness) / 100

    def channel(shift: int) -> int:
        k = (shift + hue / 30) % 12
        return round(2.55 * (lightness - low * max(-1.0, min(k - 3, 9 - k, 1.0))))

    return channel(0), channel(8), channel(4)


def _encoded(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()
