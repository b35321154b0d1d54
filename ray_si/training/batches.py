"""Batches of tokens straight from Arrow's buffers, so that no trainer waits for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from ray_si.training.encode import IGNORED

ROW = "row"
"""The one column of `row_numbers`."""


def row_numbers(tokens: pa.Table) -> Dataset:
    """A data set of the table's row numbers, which `Batches` turns into tensors."""
    return Dataset.from_dict({ROW: np.arange(tokens.num_rows)})


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
