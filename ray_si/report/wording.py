"""Numbers and texts as the page and the card show them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


def number(value: float | None) -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None else f"{value:,}"


def share(part: int, whole: int) -> str:
    """A part of a whole in percent; a dash where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def plain(text: str) -> str:
    """A text without what does not print, which becomes U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


@cache
def asset(name: str) -> str:
    """A template, style or script of this package."""
    return files("ray_si.report").joinpath("assets", name).read_text(encoding="utf-8")
