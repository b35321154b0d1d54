"""Charts as inline SVG: no script, no style attributes, colours by class for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from ray_si.report.numbers import Bin, VerbCount

NARROW, MIDDLE, WIDE = 350, 540, 1040
"""Widths of charts, in the pixels that they have on a wide screen."""

_HEIGHT = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 32, 46
_INNER_HEIGHT = _HEIGHT - _TOP - _BOTTOM


def histogram(
    bins: Sequence[Bin],
    *,
    title: str,
    x: str,
    y: str,
    width: int = MIDDLE,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Bars for bins of ``from``, ``to`` (None: and more) and ``count``.

    ``mark`` is a value on the x axis to draw a line at, and what to call it; the bins then are of
    equal width with no open end.
    """
    if not bins:
        return Markup("")
    top, ticks = _ticks(max(5, *(item["count"] for item in bins)))  # counts are whole
    inner = width - _LEFT - _RIGHT
    step = inner / len(bins)
    parts = [_y_axis(ticks, top, y, width)]
    for k, item in enumerate(bins):
        height = _INNER_HEIGHT * item["count"] / top
        parts.append(
            Markup(
                '<rect class="c1" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{}: {:,}</title></rect>"
            ).format(
                _LEFT + k * step + step * 0.06,
                _TOP + _INNER_HEIGHT - height,
                step * 0.88,
                height,
                bin_name(item),
                item["count"],
            )
        )
    every = max(1, math.ceil(len(bins) * 46 / inner))
    single = bins[0]["from"] == bins[0]["to"]  # a bin of one value is named, of more its edge
    for k in range(0, len(bins), every):
        parts.append(_x_tick(_LEFT + (k + single / 2) * step, f"{bins[k]['from']:,g}"))
    if mark:
        value, name = mark
        first, last = bins[0]["from"], bins[-1]["to"]
        assert last is not None, "a marked histogram is open"
        place = _LEFT + inner * (value - first) / (last - first)
        parts.append(
            Markup(
                '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
                '<text class="marked" x="{3:.1f}" y="{4}">{5}</text>'
            ).format(place, _TOP, _TOP + _INNER_HEIGHT, place + 5, _TOP + 10, name)
        )
    return _svg(title, parts, x, width)


def line(
    points: Sequence[tuple[float, float | None]],
    *,
    title: str,
    x: str,
    y: str,
    top: float | None = None,
    class_: str = "c1",
    unit: str = "",
) -> Markup:
    """A line over (x, y) points, interrupted where y is None; ``top`` fixes the y axis."""
    known = [(at, value) for at, value in points if value is not None]
    if not known:
        return Markup("")
    highest, ticks = _ticks(top or max(value for _, value in known))
    first, last = points[0][0], points[-1][0]
    span = (last - first) or 1

    def place(at: float, value: float) -> tuple[float, float]:
        across = 0.5 if last == first else (at - first) / span
        return _LEFT + (MIDDLE - _LEFT - _RIGHT) * across, _TOP + _INNER_HEIGHT * (
            1 - value / highest
        )

    parts = [_y_axis(ticks, highest, y, MIDDLE, unit)]
    path, pen = [], "M"
    for at, value in points:
        if value is None:
            pen = "M"
            continue
        path.append("{}{:.1f} {:.1f}".format(pen, *place(at, value)))
        pen = "L"
    parts.append(Markup('<path class="line {}" d="{}"/>').format(class_, " ".join(path)))
    radius = 3.5 if len(points) <= 40 else 1.8
    for at, value in known:
        parts.append(
            Markup(
                '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{} {:g}: {:,g}{}</title>'
                "</circle>"
            ).format(class_, *place(at, value), radius, x, at, value, unit)
        )
    for at, _ in points[:: -(-len(points) // 9)]:
        parts.append(_x_tick(place(at, 0)[0], f"{at:,g}"))
    return _svg(title, parts, x, MIDDLE)


def bar(share: float, class_: str = "c1") -> Markup:
    """A horizontal bar that fills a share, 0 to 1, of its place."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/>'
        '<rect class="{}" width="{:.2f}" height="10"/></svg>'
    ).format(class_, 100 * min(1.0, max(0.0, share)))


def bin_name(item: Bin) -> str:
    """A bin in words."""
    first, last = item["from"], item["to"]
    if last is None:
        return f"{first:,}+"
    if isinstance(first, float):
        return f"{first:.2f} to {last:.2f}"
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


# Sunburst ----------------------------------------------------------------------------------------

_SIZE = 620
_HOLE, _MIDDLE, _OUTER = 78, 184, 304


def sunburst(verbs: Sequence[VerbCount], *, title: str) -> Markup:
    """Verbs on the inner ring, their nouns on the outer one, both by count.

    A verb's place on the outer ring that no noun takes is left open: other nouns, or none.
    """
    total = sum(item["count"] for item in verbs)
    parts = []
    turn = 0.0
    for k, item in enumerate(verbs):
        share = item["count"] / total
        name = f"{item['verb']}: {item['count']:,}"
        parts.append(_arc(turn, turn + share, _HOLE, _MIDDLE, f"v h{k % 20}", name, item["verb"]))
        begin = turn
        for noun in item["nouns"]:
            end = begin + noun["count"] / total
            name = f"{item['verb']} {noun['noun']}: {noun['count']:,}"
            parts.append(_arc(begin, end, _MIDDLE, _OUTER, f"n h{k % 20}", name, noun["noun"]))
            begin = end
        turn += share
    return Markup(
        '<svg class="sunburst" viewBox="{0} {0} {1} {1}" role="img" aria-label="{2}">{3}</svg>'
    ).format(-_SIZE // 2, _SIZE, title, Markup("").join(parts))


def _arc(
    begin: float, end: float, inner: float, outer: float, class_: str, name: str, label: str
) -> Markup:
    """A part of a ring, in turns from the top, with its label along the radius where it fits."""
    end = min(end, begin + 0.99999)  # a whole turn has no direction
    large = int(end - begin > 0.5)
    (x1, y1), (x2, y2) = _at(begin, outer), _at(end, outer)
    (x3, y3), (x4, y4) = _at(end, inner), _at(begin, inner)
    path = (
        f"M{x1:.1f} {y1:.1f}A{outer} {outer} 0 {large} 1 {x2:.1f} {y2:.1f}"
        f"L{x3:.1f} {y3:.1f}A{inner} {inner} 0 {large} 0 {x4:.1f} {y4:.1f}Z"
    )
    drawn = Markup('<path class="{}" d="{}"><title>{}</title></path>').format(class_, path, name)
    height = 2 * math.pi * (end - begin) * inner
    if height < 11:
        return drawn
    fits = int((outer - inner) / 7.2)
    text = label if len(label) <= fits else label[: fits - 1] + "…"
    turn = (begin + end) / 2
    x, y = _at(turn, (inner + outer) / 2)
    degrees = 360 * turn - 90 if turn < 0.5 else 360 * turn - 270
    return drawn + Markup(
        '<text transform="translate({:.1f} {:.1f}) rotate({:.1f})" dy="4">{}</text>'
    ).format(x, y, degrees, text)


def _at(turn: float, radius: float) -> tuple[float, float]:
    angle = 2 * math.pi * turn
    return radius * math.sin(angle), -radius * math.cos(angle)


# Axes --------------------------------------------------------------------------------------------


def _svg(title: str, parts: Sequence[Markup], x: str, width: int) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}'
        '<text class="axis" x="{}" y="{}">{}</text></svg>'
    ).format(
        width,
        _HEIGHT,
        title,
        Markup("").join(parts),
        (width + _LEFT - _RIGHT) / 2,
        _HEIGHT - 8,
        x,
    )


def _y_axis(ticks: Sequence[float], top: float, name: str, width: int, unit: str = "") -> Markup:
    parts = []
    for tick in ticks:
        y = _TOP + _INNER_HEIGHT * (1 - tick / top)
        parts.append(
            Markup(
                '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
                '<text class="tick end" x="{3}" y="{4:.1f}">{5}{6}</text>'
            ).format(_LEFT, width - _RIGHT, y, _LEFT - 7, y + 4, f"{tick:,.10g}", unit)
        )
    parts.append(Markup('<text class="axis start" x="4" y="13">{}</text>').format(name))
    return Markup("").join(parts)


def _x_tick(x: float, name: str) -> Markup:
    return Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>').format(
        x, _TOP + _INNER_HEIGHT + 17, name
    )


def _ticks(highest: float) -> tuple[float, list[float]]:
    """Where an axis from 0 ends that reaches ``highest``, and three to six round numbers on it."""
    highest = highest or 1
    scale = 10.0 ** math.floor(math.log10(highest))
    step = next(s * scale for s in (0.2, 0.5, 1, 2) if s * scale * 5 >= highest)
    count = math.ceil(highest / step - 1e-9)
    return step * count, [step * k for k in range(count + 1)]
