"""Batches of tokens straight from Arrow's buffers, so that no trainer waits for them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from ray_si.training.encode import IGNORED

ROW = "row"
"""The one column of `row_numbers`."""


PACK = "rows"
"""The one column of `packs`."""


def row_numbers(tokens: pa.Table) -> Dataset:
    """A data set of the table's row numbers, which `Batches` turns into tensors."""
    return Dataset.from_dict({ROW: np.arange(tokens.num_rows)})


def packs(tokens: pa.Table, room: int) -> Dataset:
    """A data set of packs, which `PackedBatches` turns into tensors: lists of row numbers.

    The rows of a pack have at most ``room`` tokens together, or are one. Best fit, longest first:
    a row goes where the least room is left, so that few packs hold all.
    """
    lengths = tokens["input_ids"].combine_chunks().value_lengths().to_numpy()
    packed: list[list[int]] = []
    spaces: list[int] = []  # what packs have left, ascending, each once
    having: defaultdict[int, list[int]] = defaultdict(list)  # packs by what they have left
    for row in np.argsort(-lengths, kind="stable").tolist():
        place = bisect_left(spaces, lengths[row])
        if place == len(spaces):
            space, pack = room, len(packed)
            packed.append([])
        else:
            space = spaces[place]
            pack = having[space].pop()
            if not having[space]:
                del spaces[place]
        packed[pack].append(row)
        left = space - int(lengths[row])
        if left > 0:
            if not having[left]:
                insort(spaces, left)
            having[left].append(pack)
    return Dataset.from_dict({PACK: packed})


class Batches:
    """Collates rows of `TOKENS`, given by number, padded on the right with ``pad``.

    TRL's collator takes every token through a Python list, at a third of the speed or less
    (benchmarks/training_data.json). Holds all tokens in memory, 8 bytes each; fewer than 2**31.
    """

    def __init__(self, tokens: pa.Table, pad: int) -> None:
        ids, labels = (tokens[name].combine_chunks() for name in ("input_ids", "labels"))
        self._ids, self._labels = (
            column.flatten().to_numpy(zero_copy_only=False) for column in (ids, labels)
        )
        self._lengths = ids.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        self._pad = pad

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Tensors ``input_ids``, ``attention_mask`` and ``labels``, int64, shape (n, longest)."""
        rows = np.array([example[ROW] for example in examples])
        lengths = self._lengths[rows, None]
        place = np.arange(lengths.max())
        mask = place < lengths
        source = np.where(mask, self._starts[rows, None] + place, 0)
        batch = {
            "input_ids": np.where(mask, self._ids[source], self._pad),
            "attention_mask": mask,
            "labels": np.where(mask, self._labels[source], IGNORED),
        }
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in batch.items()}


class PackedBatches(Batches):
    """The same for packs, whose rows stand one after another.

    There is no attention mask: positions begin anew with each row, by which transformers keep rows
    from attending to one another (`ray_si.training.trainer` checks that a model does). A row's
    first token is nobody's to predict.
    """

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors ``input_ids``, ``position_ids`` and ``labels``, int64, shape (n, longest)."""
        rows = np.concatenate([example[PACK] for example in examples])
        lengths = self._lengths[rows]
        position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        source = np.repeat(self._starts[rows], lengths) + position
        sizes = np.array([self._lengths[example[PACK]].sum() for example in examples])
        is_token = np.arange(sizes.max()) < sizes[:, None]
        batch = {
            "input_ids": (self._pad, self._ids[source]),
            "position_ids": (0, position),
            "labels": (IGNORED, np.where(position == 0, IGNORED, self._labels[source])),
        }
        tensors = {}
        for name, (padding, values) in batch.items():
            padded = np.full(is_token.shape, padding, np.int64)
            padded[is_token] = values
            tensors[name] = torch.from_numpy(padded)
        return tensors
