"""Tables drawn as SVG: by hand, so that the same table makes the same bytes and nothing is loaded from anywhere.

Colours are classes of the page's one style block. An interval is drawn wherever there is one; what is suppressed or not
measured keeps its line, empty, with the word; what is not resolved is drawn in grey, as neither good nor bad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from markupsafe import Markup, escape

from lepton_fl.evidence.shown import NOT_RESOLVED, Plain
from lepton_fl.evidence.words import visible

_ROW, _TOP, _BOTTOM = 26, 12, 30  # px of a line, above the first and below the last
_LABEL_CHARACTERS = 20
_TICKS = 5


@dataclass(frozen=True)
class Scale:
    """A range of values on a range of pixels."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; what lies outside is put on the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        step = _step((self.high - self.low) / _TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def draw(table: Plain) -> list[tuple[str, Markup]]:
    """The pictures of a table, each with the figure it shows; none where there is nothing to draw."""
    chart = table["chart"]
    if chart is None or not table["rows"]:
        return []
    pictures = []
    for name in chart["columns"]:
        at = table["columns"].index(name)
        lines = [_Line(row["labels"], row["figures"][at]) for row in table["rows"]]
        drawn = [line for line in lines if line.figure["value"] is not None]
        if drawn:
            pictures.append((name, _FORMS[chart["form"]](name, lines)))
    return [(name, picture) for name, picture in pictures if picture]


@dataclass(frozen=True)
class _Line:
    labels: Sequence[str]
    figure: Plain

    @property
    def label(self) -> str:
        return visible(self.labels[-1], _LABEL_CHARACTERS)

    @property
    def value(self) -> float | None:
        return None if self.figure["value"] is None else float(Decimal(self.figure["value"]))

    @property
    def interval(self) -> tuple[float, float] | None:
        ci = self.figure["ci"]
        return None if ci is None else (float(Decimal(ci[0])), float(Decimal(ci[1])))


def _forest(name: str, lines: Sequence[_Line]) -> Markup:
    """A line for each row: label, interval with its point, the numbers; rows that begin alike under one head."""
    bounds = _bounds(lines)
    low, high = _nice(min(bounds), max(bounds))
    if all(0 <= line.value <= 1 for line in lines if line.value is not None):
        low, high = max(low, 0.0), min(high, 1.0)  # rates; an interval may reach beyond, and is cut off
    return _rows(name, lines, Scale(low, high, 152, 302), 470, from_zero=False)


def _gaps(name: str, lines: Sequence[_Line]) -> Markup:
    """Differences against zero; ratios and worst groups have another neutral point, and stand in the table alone."""
    some = [line for line in lines if line.labels[1].endswith(_DIFFERENCE)]
    bounds = _bounds(some)
    if not bounds:
        return Markup()
    _, high = _nice(0, max(*map(abs, bounds), 0.05))
    low = -high if min(bounds) < 0 else 0.0
    named = [_Line((line.labels[0], line.labels[1].removesuffix(_DIFFERENCE)), line.figure) for line in some]
    return _rows(name, named, Scale(low, high, 170, 490), 660, from_zero=True)


_DIFFERENCE = " difference"


def _rows(name: str, lines: Sequence[_Line], scale: Scale, width: int, *, from_zero: bool) -> Markup:
    parts, y, under = [], _TOP, None
    for line in lines:
        if len(line.labels) > 1 and line.labels[0] != under:
            under = line.labels[0]
            parts.append(_text(0, y + 17, visible(under, _LABEL_CHARACTERS), "head"))
            y += _ROW
        middle = y + _ROW // 2
        parts.append(_text(scale.left - 12, middle + 4, line.label, "label end"))
        parts.append(_mark(line, scale, middle))
        parts.append(_text(scale.right + 12, middle + 4, _numbers(line.figure), "number"))
        y += _ROW
    return _svg(name, width, y + _BOTTOM, [_axis(scale, y, from_zero=from_zero), *parts])


def _bounds(lines: Sequence[_Line]) -> list[float]:
    return [bound for line in lines for bound in (*(line.interval or ()), *_some(line.value))]


def _mark(line: _Line, scale: Scale, y: int) -> Markup:
    style = " unsure" if line.figure["status"] == NOT_RESOLVED else ""
    parts = []
    if line.interval is not None and line.value is not None:
        low, high = (_px(scale(bound)) for bound in line.interval)
        shape = Markup('<line class="interval{0}" x1="{1}" x2="{2}" y1="{3}" y2="{3}"/>')
        parts.append(shape.format(style, low, high, y))
    if line.value is not None:
        parts.append(Markup('<circle class="point{}" cx="{}" cy="{}" r="4"/>').format(style, _px(scale(line.value)), y))
    else:
        shape = Markup('<line class="absent" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>')
        parts.append(shape.format(_px(scale.left), _px(scale.right), y))
    return Markup("").join(parts)


def _curve(name: str, lines: Sequence[_Line]) -> Markup:
    """Values by round with the band of their intervals."""
    width, height, left, right = 640, 250, 46, 578
    points = [(float(line.labels[0]), line.value, line.interval) for line in lines if line.value is not None]
    bounds = _bounds(lines)
    low, high = _nice(min(bounds), max(bounds))
    across = Scale(min(0.0, points[0][0]), max(point[0] for point in points) or 1.0, left, right)
    down = Scale(max(0.0, low), min(1.0, high) if max(bounds) <= 1 else high, height - 34, 14)
    parts = [_frame(across, down, (left, right))]
    banded = [(x, interval) for x, _, interval in points if interval is not None]
    if len(banded) > 1:
        edge = [(x, one[1]) for x, one in banded] + [(x, one[0]) for x, one in reversed(banded)]
        parts.append(Markup('<polygon class="band" points="{}"/>').format(_path(edge, across, down)))
    whole = [(x, value) for x, value, _ in points if value is not None]
    parts.append(Markup('<polyline class="line" points="{}"/>').format(_path(whole, across, down)))
    if len(whole) <= 40:
        for x, value in whole:
            spot = Markup('<circle class="point" cx="{}" cy="{}" r="3.5"/>')
            parts.append(spot.format(_px(across(x)), _px(down(value))))
    last = whole[-1]
    shown = next(line.figure["value"] for line in reversed(lines) if line.value is not None)
    parts.append(_text(across(last[0]) + 10, down(last[1]) + 4, shown, "number"))
    return _svg(f"{name} by round", width, height, parts)


def _frame(across: Scale, down: Scale, edges: tuple[int, int]) -> Markup:
    parts = []
    for tick in down.ticks():
        y = _px(down(tick))
        shape = Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>')
        parts.append(shape.format(*edges, y))
        parts.append(_text(edges[0] - 8, down(tick) + 4, f"{tick:g}", "tick end"))
    for tick in across.ticks():
        if tick == int(tick):
            parts.append(_text(across(tick), down.left + 18, f"{tick:g}", "tick middle"))
    parts.append(_text((edges[0] + edges[1]) / 2, down.left + 33, "round", "tick middle"))
    return Markup("").join(parts)


def _stack(name: str, lines: Sequence[_Line]) -> Markup:
    """A bar each, from zero."""
    height, most = _TOP + _ROW * len(lines), max(line.value or 0 for line in lines) or 1.0
    scale = Scale(0, most, 150, 520)
    parts = []
    for row, line in enumerate(lines):
        y = _TOP + _ROW * row
        parts.append(_text(scale.left - 10, y + 14, visible(line.labels[0], _LABEL_CHARACTERS), "label end"))
        if line.value is not None:
            shape = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="16" rx="2"/>')
            parts.append(shape.format(scale.left, y + 1, _px(scale(line.value) - scale.left)))
            parts.append(_text(scale(line.value) + 8, y + 14, _numbers(line.figure), "number"))
    return _svg(name, 640, height + 8, parts)


_FORMS = {"forest": _forest, "gaps": _gaps, "curve": _curve, "stack": _stack}


def mini(figure: Plain, *, around_zero: bool) -> Markup:
    """An interval alone, for the verdict: from 0 to 1, or about zero."""
    line = _Line(("",), figure)
    if line.value is None or line.interval is None:
        return Markup()
    reach = max(abs(bound) for bound in (*line.interval, 0.05))
    scale = Scale(-reach, reach, 4, 156) if around_zero else Scale(0, 1, 4, 156)
    parts = [Markup('<line class="grid" x1="4" x2="156" y1="9" y2="9"/>')]
    if around_zero:
        parts.append(Markup('<line class="neutral" x1="80" x2="80" y1="2" y2="16"/>'))
    return _svg("interval", 160, 18, [*parts, _mark(line, scale, 9)])


def _axis(scale: Scale, bottom: int, *, from_zero: bool) -> Markup:
    """Lines at round values down to `bottom`, and the values below; zero is the darkest where it is what counts."""
    parts = []
    for tick in scale.ticks():
        x, style = _px(scale(tick)), "neutral" if tick == 0 and from_zero else "grid"
        shape = Markup('<line class="{0}" x1="{1}" x2="{1}" y1="4" y2="{2}"/>')
        parts.append(shape.format(style, x, bottom + 4))
        parts.append(_text(scale(tick), bottom + 21, f"{tick:g}".replace("-", "−"), "tick middle"))
    return Markup("").join(parts)


def _numbers(figure: Plain) -> str:
    if figure["value"] is None:
        return str(figure["status"])
    unit = f" {figure['unit']}" if figure["unit"] else ""
    if figure["ci"] is None:
        return f"{figure['value']}{unit}"
    return f"{figure['value']} ({figure['ci'][0]} – {figure['ci'][1]}){unit}".replace("-", "−")


def _svg(name: str, width: int, height: int, parts: Sequence[Markup]) -> Markup:
    label = f"Chart of {name}; the table has the same figures"
    head = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" class="w{}">')
    return head.format(label, width, height, width) + Markup("").join(parts) + Markup("</svg>")


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(_px(x), _px(y), style, escape(text))


def _path(points: Sequence[tuple[float, float]], across: Scale, down: Scale) -> str:
    return " ".join(f"{_px(across(x))},{_px(down(y))}" for x, y in points)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _some(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def _nice(low: float, high: float) -> tuple[float, float]:
    """A range of round numbers around both, never empty."""
    step = _step(max(high - low, 0.05) / _TICKS)
    return math.floor(low / step - 1e-9) * step, math.ceil(high / step + 1e-9) * step


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
