"""A ROUGE-L index as one file: a zip of NumPy arrays, whose checksums are verified on reading."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np

from ray_si.dedup.vocabulary import Encoded, Vocabulary

_FORMAT = 1


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
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(
                stream,
                header=np.frombuffer(json.dumps(header).encode(), np.uint8),
                tokens=texts.tokens,
                offsets=texts.offsets,
                words=state["words"],
                starts=state["starts"],
            )
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str]) -> tuple[Fraction, Vocabulary, Encoded]:
    """Read what `save` wrote. ValueError where it is damaged or something else; OSError."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']}, this version reads {_FORMAT}")
        vocabulary = Vocabulary.from_state(header["tokenizer"], arrays)
        texts = Encoded(arrays["tokens"], arrays["offsets"])
        _check(texts, len(vocabulary))
        return Fraction(header["threshold"]), vocabulary, texts
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a ROUGE-L index: {error}") from error


def _check(texts: Encoded, words: int) -> None:
    tokens, offsets = texts.tokens, texts.offsets
    if tokens.dtype != np.int32 or offsets.dtype != np.int64 or not len(offsets):
        raise ValueError("its texts are of another type")
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 0).any():
        raise ValueError("its texts are inconsistent")
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < words:
        raise ValueError("its texts have words that it does not hold")
