"""A ROUGE-L index as one file: a zip of NumPy arrays, whose checksums are verified on reading.

Nothing in a file is believed: every array's type, shape and range is checked before it is used.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from ray_si.dedup.vocabulary import Encoded, Vocabulary

_FORMAT = 1

_ARRAYS = {
    "header": np.uint8,
    "tokens": np.int32,
    "offsets": np.int64,
    "words": np.uint8,
    "starts": np.int64,
}
"""What a file holds, each with one dimension."""

_FRACTION = re.compile(r"\d{1,400}(/\d{1,400})?", re.ASCII)
"""A threshold as written: that of any float above 0."""


_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError,
    NotImplementedError, RuntimeError,  # a zip that is encrypted, or packed in another way
    SyntaxError, tokenize.TokenError, MemoryError, OverflowError,  # an array's own header
)  # fmt: skip
"""What NumPy and zipfile raise for files that are something else."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A stream whose bytes take the place of the file once they are durable, all or none.

    OSError where that cannot be done.
    """
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def parse_header(data: bytes) -> dict[str, Any]:
    """A JSON object; ValueError where it is none."""
    try:
        header = json.loads(data)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    return header


def save(
    path: str | os.PathLike[str], threshold: Fraction, vocabulary: Vocabulary, texts: Encoded
) -> None:
    """Write beside the path, make durable, then rename; OSError where that cannot be done."""
    header = {
        "format": _FORMAT,
        "threshold": str(threshold),
        "tokenizer": vocabulary.tokenizer,
    }
    state = vocabulary.state()
    with replacing(path) as stream:
        np.savez(
            stream,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            tokens=texts.tokens,
            offsets=texts.offsets,
            words=state["words"],
            starts=state["starts"],
        )


def load(path: str | os.PathLike[str]) -> tuple[Fraction, Vocabulary, Encoded]:
    """Read what `save` wrote. ValueError where it is damaged or something else; OSError."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: _array(stored, name) for name in _ARRAYS}
        header = parse_header(arrays.pop("header").tobytes())
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']}, this version reads {_FORMAT}")
        threshold = _threshold(header["threshold"])
        _check_parts(arrays["starts"], len(arrays["words"]), "words")
        if not arrays["words"].all() or (np.diff(arrays["starts"]) < 1).any():
            raise ValueError("its words are inconsistent")
        _check_parts(arrays["offsets"], len(arrays["tokens"]), "texts")
        vocabulary = Vocabulary.from_state(header["tokenizer"], arrays)
        tokens = arrays["tokens"]
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < len(vocabulary):
            raise ValueError("its texts have words that it does not hold")
        return threshold, vocabulary, Encoded(tokens, arrays["offsets"])
    except _UNREADABLE as error:
        raise ValueError(f"{path} is damaged or not a ROUGE-L index: {error}") from error


def _array(stored: Any, name: str) -> np.ndarray:
    array: np.ndarray = stored[name]
    if array.dtype != _ARRAYS[name] or array.ndim != 1:
        raise ValueError(f"{name} is of another type or shape")
    return array


def _threshold(text: Any) -> Fraction:
    if not isinstance(text, str) or not _FRACTION.fullmatch(text):
        raise ValueError("its threshold is no fraction")
    try:
        threshold = Fraction(text)
    except ZeroDivisionError as error:
        raise ValueError("its threshold is no fraction") from error
    if not 0 < threshold <= 1 or Fraction(str(float(threshold))) != threshold:
        raise ValueError(f"its threshold is {text}")
    return threshold


def _check_parts(starts: np.ndarray, size: int, what: str) -> None:
    """Starts of parts in a row, 0 first and the size last; compared, as differences may wrap."""
    if not len(starts) or starts[0] != 0 or starts[-1] != size or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"its {what} are inconsistent")
