"""Pictures to look at: landscapes out of a number, the same at every run."""

from __future__ import annotations

import colorsys
import io
import math
import random
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

SHAPES: Final = ((960, 720), (720, 900), (900, 900), (1080, 640))


def painting(number: int, size: tuple[int, int] | None = None) -> bytes:
    """A JPEG of sky, sun and hills; `size` in pixels."""
    chance = random.Random(number)
    width, height = size or SHAPES[number % len(SHAPES)]
    hue = chance.random()
    image = _sky(width, height, hue)
    draw = ImageDraw.Draw(image)
    horizon = height * chance.uniform(0.45, 0.65)
    _sun(draw, chance.uniform(0.2, 0.8) * width, horizon * chance.uniform(0.5, 0.95), height * 0.09, hue)
    for ridge in range(4):
        _ridge(
            draw,
            chance,
            width,
            height,
            horizon + ridge * height * 0.11,
            _tone(hue + 0.05, 0.5, 0.5 - ridge * 0.11),
        )
    image = image.filter(ImageFilter.GaussianBlur(0.8))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82, progressive=True)
    return out.getvalue()


def _tone(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def _sky(width: int, height: int, hue: float) -> Image.Image:
    column = Image.new("RGB", (1, height))
    for row in range(height):
        part = row / height
        column.putpixel((0, row), _tone(hue + 0.1 * part, 0.55 - 0.4 * part, 0.72 + 0.26 * part))
    return column.resize((width, height))


def _sun(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, hue: float) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), _tone(hue + 0.55, 0.18, 1))


def _ridge(
    draw: ImageDraw.ImageDraw,
    chance: random.Random,
    width: int,
    height: int,
    level: float,
    tone: tuple[int, int, int],
) -> None:
    waves = [(chance.uniform(0.5, 4), chance.uniform(0, 7), chance.uniform(0.01, 0.05)) for _ in range(4)]
    points: list[tuple[float, float]] = [(0, height)]
    for x in range(0, width + 8, 8):
        rise = sum(math.sin(x / width * speed * math.tau + shift) * size for speed, shift, size in waves)
        points.append((x, level - rise * height))
    draw.polygon([*points, (width, height)], tone)
