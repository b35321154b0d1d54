"""Texts of any script as words with spaces between them, many at a time."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import regex
from numba import njit

UNSPACED = (
    r"\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Balinese}\p{Javanese}"
    r"\p{New_Tai_Lue}\p{Tai_Le}\p{Tai_Tham}\p{Tai_Viet}"
)
"""Scripts whose words no space parts (for a regex set); by extension those that share letters."""

_SEPARATOR, _WORD, _ALONE, _MARK, _STACKER = range(5)
_CLASSES = {
    _WORD: r"[\p{L}\p{Nd}\p{Nl}]",
    _ALONE: rf"[\p{{No}}[[\p{{L}}\p{{Nl}}]&&[{UNSPACED}]]]",
    _MARK: r"[\p{Mn}\p{Mc}]",
    _STACKER: r"[\p{InSC=Virama}\p{InSC=Invisible_Stacker}]",
    _SEPARATOR: "[\u02bb\u02bc]",  # letters that stand for an apostrophe
}
"""What a character is; the last class that has it counts, and no class is a separator."""

_INVISIBLE = r"[\p{Default_Ignorable_Code_Point}\u0640]"  # and the line that stretches Arabic words
_WRITTEN_OTHERWISE = r"[[\p{L}\p{M}\p{Nd}\p{Nl}]&&[\p{NFKC_QC=No}\p{Changes_When_Casefolded}]]"

_SPACE = ord(" ")


def separated(texts: Sequence[str]) -> list[str]:
    """The words of each text, a space between two: the "auto" tokens of `ray_si.dedup.tokens`."""
    if not texts:
        return []
    tables = _tables()
    joined = "\0".join(text.replace("\0", " ") for text in texts)
    folded = _fold(_points(unicodedata.normalize("NFC", joined)), tables.starts, tables.forms)
    words = _separate(_points(unicodedata.normalize("NFC", _text(folded))), tables.classes)
    return _text(words).split("\0")


@cache
def letters_without_spaces() -> np.ndarray:
    """Of each code point, whether it is a letter of a script whose words no space parts, bool."""
    alone: np.ndarray = _tables().classes == _ALONE
    return alone


@dataclass(frozen=True)
class _Tables:
    """By code point: ``classes``, and ``starts``, where its usual form stands in ``forms``.

    A form is its length, then its code points; a start of -1 is a character that stays.
    """

    classes: np.ndarray
    starts: np.ndarray
    forms: np.ndarray


@cache
def _tables() -> _Tables:
    """Made when the first text needs them."""
    everything = _text(np.r_[:0x40000, 0xE0000:0xE1000].astype(np.uint32))  # the planes in use
    classes = np.full(0x110000, _SEPARATOR, np.uint8)
    for class_, characters in _CLASSES.items():
        for run in regex.findall(f"{characters}+", everything, regex.V1):
            classes[_points(run)] = class_
    usual = {
        character: unicodedata.normalize("NFKC", character).casefold()
        for character in regex.findall(_WRITTEN_OTHERWISE, everything, regex.V1)
    }
    usual |= dict.fromkeys(regex.findall(_INVISIBLE, everything), "")
    usual["\u0130"] = "i"  # İ, whose dot would stay behind
    starts = np.full(0x110000, -1, np.int32)
    starts[_points("".join(usual))] = np.cumsum([0, *(len(form) + 1 for form in usual.values())])[
        :-1
    ]
    forms = np.concatenate([np.r_[len(form), _points(form)] for form in usual.values()])
    return _Tables(classes, starts, forms.astype(np.uint32))


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _text(points: np.ndarray) -> str:
    return points.astype("<u4", copy=False).tobytes().decode("utf-32-le", "surrogatepass")


@njit(cache=True, nogil=True)
def _fold(points: Any, starts: Any, forms: Any) -> Any:
    """The code points with each in its usual form."""
    size = 0
    for point in points:
        start = starts[point]
        size += 1 if start < 0 else forms[start]
    folded = np.empty(size, np.uint32)
    size = 0
    for point in points:
        start = starts[point]
        if start < 0:
            folded[size] = point
            size += 1
        else:
            for k in range(forms[start]):
                folded[size] = forms[start + 1 + k]
                size += 1
    return folded


@njit(cache=True, nogil=True)
def _separate(points: Any, classes: Any) -> Any:
    """The code points with one space for each separator, and one before what begins a word."""
    words = np.empty(2 * len(points), np.uint32)
    size, inside, stacked = 0, _SEPARATOR, False
    for point in points:
        class_ = classes[point]
        if class_ == _SEPARATOR:
            inside = _SEPARATOR
        elif class_ < _MARK:
            joins = stacked if class_ == _ALONE else inside == _WORD
            if inside != _SEPARATOR and not (joins and inside == class_):
                words[size] = _SPACE
                size += 1
            inside = class_
        words[size] = point if inside != _SEPARATOR or point == 0 else _SPACE
        size += 1
        stacked = class_ == _STACKER
    return words[:size]
