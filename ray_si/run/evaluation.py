"""Evaluation sets: the texts that nothing in a run may resemble.

A set is a file of rows (JSONL or Parquet as in `ray_si.storage.corpus`), a JSON file (an array of
rows, one array under "examples", or a Super-NaturalInstructions task), plain or compressed, or a
local folder of such files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from ray_si.errors import CorpusError
from ray_si.run.schemas import EVALUATION_TEXTS
from ray_si.storage.corpus import FORMATS, holds_rows, open_corpus
from ray_si.storage.files import File, locate, reading

TEXT_FIELDS = ("instruction", "question", "prompt", "problem", "query", "text", "input")
"""Where a row's instruction may stand: the first of these that the file's first row has."""

INPUT_FIELDS = ("input", "context", "passage")
"""Where its input may stand, unless the row has ``instances`` as seed tasks have."""

ALONE_CHARACTERS = 24
"""Shortest input that is compared by itself; shorter ones ("yes", "7, 3") are bound to recur."""

_JSON = {".json": None, ".json.gz": "gzip", ".json.zst": "zstd"}
_ROWS = 10_000
_SUFFIXES = (*(format_.suffix for format_ in FORMATS), *_JSON)


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSet:
    """``texts`` are what is compared, each once: see `texts_of_item`."""

    name: str
    texts: list[str] = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the texts in order; neither name nor place counts."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(json.dumps(text).encode() + b"\n")
        return digest.hexdigest()


def texts_of_item(instruction: str, inputs: Iterable[str]) -> Iterator[str]:
    """What of an evaluation item is compared.

    Its instruction; its instruction and input, joined by a line break; and its input by itself
    where that has at least `ALONE_CHARACTERS`.
    """
    instruction = instruction.strip()
    if instruction:
        yield instruction
    for text in inputs:
        text = text.strip()
        if text and instruction:
            yield f"{instruction}\n{text}"
        if len(text) >= ALONE_CHARACTERS or (text and not instruction):
            yield text


def texts_of_instance(instruction: str, input_: str) -> list[str]:
    """What of a generated instance is compared, besides its instruction: see `texts_of_item`."""
    if not input_.strip():
        return []
    return [input_.strip(), f"{instruction.strip()}\n{input_.strip()}"]


def load_sets(paths: Sequence[str]) -> list[EvaluationSet]:
    """Read the sets at local paths or ``s3://`` addresses, in order.

    Each is named by its file or folder, and numbered where that repeats. Raises CorpusError naming
    file and line for what is missing, empty, of an unknown kind or without a text.
    """
    sets: list[EvaluationSet] = []
    names: dict[str, int] = {}
    for path in paths:
        texts = list(dict.fromkeys(_texts(path)))
        if not texts:
            raise CorpusError(f"{path} holds no text to compare with")
        name = path.rstrip("/").rpartition("/")[2]
        names[name] = names.get(name, 0) + 1
        suffix = f" ({names[name]})" if names[name] > 1 else ""
        sets.append(EvaluationSet(name + suffix, texts))
    return sets


def to_table(sets: Sequence[EvaluationSet]) -> pa.Table:
    """The sets as the rows of `EVALUATION_TEXTS`, in order."""
    names = [one.name for one in sets for _ in one.texts]
    texts = [text for one in sets for text in one.texts]
    return pa.table([names, texts], schema=EVALUATION_TEXTS)


def from_table(table: pa.Table) -> list[EvaluationSet]:
    """The inverse of `to_table`."""
    texts: dict[str, list[str]] = {}
    for name, text in zip(table["set"].to_pylist(), table["text"].to_pylist(), strict=True):
        texts.setdefault(name, []).append(text)
    return [EvaluationSet(name, of_set) for name, of_set in texts.items()]


def names_in(folder: str | os.PathLike[str]) -> list[str]:
    """Files of a folder that a set of that folder is read from, in order."""
    return sorted(name for name in os.listdir(folder) if _has_suffix(name) and holds_rows(name))


def _texts(path: str) -> Iterator[str]:
    folder = os.path.expanduser(path)
    if os.path.isdir(folder):
        names = names_in(folder)
        if not names:
            raise CorpusError(f"{path}: no file in this folder ends in {', '.join(_SUFFIXES)}")
        for name in names:
            texts = list(_texts_of_file(os.path.join(folder, name)))
            if not texts:
                logger.warning("%s/%s holds no text", path.rstrip("/"), name)
            yield from texts
    else:
        yield from _texts_of_file(path)


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _texts_of_file(path: str) -> Iterator[str]:
    if not _has_suffix(path):
        raise CorpusError(f"{path}: unknown extension; use one of {', '.join(_SUFFIXES)}")
    file = locate(path)
    if not path.lower().endswith(tuple(_JSON)):
        yield from _texts_of_rows(file)
        return
    value = _read_json(file) if file.size() else []
    if isinstance(value, dict) and "Definition" in value:
        yield from _texts_of_task(value, path)
        return
    rows = value.get("examples") if isinstance(value, dict) else value
    if rows == []:
        return
    if not isinstance(rows, list):
        raise CorpusError(
            f"{path} is neither an array of rows, nor one under 'examples', nor a "
            "Super-NaturalInstructions task with 'Definition' and 'Instances'"
        )
    found = next((name for name in TEXT_FIELDS if name in _mapping(rows[0], f"{path}, row 1")), "")
    if not found:
        there = ", ".join(rows[0]) or "none"
        raise CorpusError(f"{path}: no field with a text ({_NAMES}); there are: {there}")
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        text = _string(_mapping(row, where).get(found), found, where)
        yield from texts_of_item(text, _inputs(row, found, where))


_NAMES = ", ".join(TEXT_FIELDS)


def _texts_of_rows(file: File) -> Iterator[str]:
    corpus = open_corpus(file, *TEXT_FIELDS, hint=f"use one of {_NAMES}")
    unit = "line" if corpus.schema is None else "row"
    for batch in corpus.batches(_ROWS):
        if isinstance(batch.records, list):
            rows = [json.loads(line) for line in batch.records]
        else:
            names = {"instances", *INPUT_FIELDS} & set(batch.records.schema.names)
            rows = batch.records.select(sorted(names)).to_pylist() or [{}] * len(batch.texts)
        for text, row, number in zip(batch.texts, rows, batch.numbers, strict=True):
            where = f"{file.location}, {unit} {number}"
            yield from texts_of_item(text, _inputs(row, corpus.field, where))


def _texts_of_task(task: dict[str, Any], path: str) -> Iterator[str]:
    """Of a Super-NaturalInstructions task (Wang et al. 2022)."""
    definition = task["Definition"]
    if isinstance(definition, list):
        definition = "\n".join(_string(part, "Definition", path) for part in definition)
    instances = {"instances": task.get("Instances", [])}
    yield from texts_of_item(
        _string(definition, "Definition", path), _inputs(instances, "Definition", path)
    )


def _inputs(row: dict[str, Any], text_field: str, where: str) -> Iterator[str]:
    instances = row.get("instances")
    if instances is None:
        name = next((n for n in INPUT_FIELDS if n != text_field and row.get(n) is not None), None)
        if name is not None:
            yield _string(row[name], name, where)
        return
    if not isinstance(instances, list):
        raise CorpusError(f"{where}: field 'instances' is not an array")
    for instance in instances:
        value = _mapping(instance, f"{where}, an instance").get("input")
        yield _string("" if value is None else value, "input", where)


def _read_json(file: File) -> Any:
    name = file.location.lower()
    codec = next(codec for suffix, codec in _JSON.items() if name.endswith(suffix))
    with reading(file.location), file.filesystem.open_input_stream(file.path, codec) as stream:
        data = stream.read()
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{file.location} is not valid JSON: {error}") from error


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: not a JSON object")
    return value


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise CorpusError(f"{where}: field {name!r} is not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: field {name!r} has half a surrogate pair") from error
    return value
