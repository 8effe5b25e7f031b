"""Lines over time, one panel below the other, as an SVG that reads well on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from msgspec import Struct

WIDTH, HEIGHT = 760, 150
LEFT, RIGHT, TOP, GAP, BOTTOM = 64, 130, 34, 44, 34
COLOURS = ("#1f77b4", "#d97706", "#2e9e5b", "#c2413b")
GREY = "#8a8f98"


class Line(Struct, frozen=True):
    """`points`: (seconds, value)."""

    name: str
    points: Sequence[tuple[float, float]]


class Panel(Struct, frozen=True):
    """`log`: powers of ten upwards, from 1 on."""

    title: str
    lines: Sequence[Line]
    log: bool = False


def draw(panels: Sequence[Panel], title: str, shaded: tuple[float, float] | None = None) -> str:
    """All panels share the time axis; `shaded`: from when to when, in seconds, something special happened."""
    end = max(at for panel in panels for line in panel.lines for at, _ in line.points)
    height = TOP + len(panels) * (HEIGHT + GAP) - GAP + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{GREY}" role="img">',
        f"<title>{escape(title)}</title>",
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + number * (HEIGHT + GAP), end, shaded)
    parts += _minutes(end, height - BOTTOM + 18)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: float, end: float, shaded: tuple[float, float] | None) -> Iterator[str]:
    most = _ceiling(max((value for line in panel.lines for _, value in line.points), default=1.0), panel.log)

    def y(value: float) -> float:
        share = math.log10(max(value, 1.0)) / math.log10(most) if panel.log else value / most
        return top + HEIGHT * (1 - min(1.0, share))

    yield f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(panel.title)}</text>'
    if shaded:
        x, width = _x(shaded[0], end), _x(shaded[1], end) - _x(shaded[0], end)
        yield f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT}" fill="{GREY}" fill-opacity="0.2"/>'
    for mark in _marks(most, panel.log):
        yield f'<path d="M{LEFT} {y(mark):.1f}h{WIDTH}" stroke="{GREY}" stroke-opacity="0.35"/>'
        yield f'<text x="{LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{_short(mark)}</text>'
    for number, line in enumerate(panel.lines):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{_x(at, end):.1f},{y(value):.1f}" for at, value in line.points)
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        place = f'x="{LEFT + WIDTH + 8}" y="{top + 14 + 16 * number}"'
        yield f'<text {place} fill="{colour}">{escape(line.name)}</text>'


def _x(at: float, end: float) -> float:
    return LEFT + WIDTH * at / end


def _minutes(end: float, y: float) -> Iterator[str]:
    step = max(1, math.ceil(end / 60 / 12))
    for minute in range(0, int(end / 60) + 1, step):
        word = f"{minute} min" if minute == 0 else str(minute)
        yield f'<text x="{_x(minute * 60, end):.1f}" y="{y:.1f}" text-anchor="middle">{word}</text>'


def _ceiling(most: float, log: bool) -> float:
    if log:
        return float(10 ** max(1, math.ceil(math.log10(max(most, 1.0)))))
    unit = float(10 ** math.floor(math.log10(max(most, 1.0))))
    return next(unit * step for step in (1, 2, 4, 5, 10) if unit * step >= most)


def _marks(most: float, log: bool) -> list[float]:
    if log:
        return [float(10**power) for power in range(round(math.log10(most)) + 1)]
    return [most * part / 4 for part in range(5)]


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"
