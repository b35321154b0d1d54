"""The gate that a configuration asks for, wherever it decides: in a build, a dry run, an audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si.config.schema import RunConfig
from ray_si.config.sections.dedup import Dedup
from ray_si.dedup import Deduplicator, DedupResult, GuardedGate
from ray_si.dedup.cosine.host import RowsFileError
from ray_si.dedup.deduplicator import Encoder
from ray_si.dedup.layers import Screened
from ray_si.errors import GateError
from ray_si.pipeline.contamination import excluded_texts
from ray_si.pipeline.embeddings import compact
from ray_si.run.evaluation import EvaluationSet


@contextmanager
def told_of_disk() -> Iterator[None]:
    """GateError where the rows of a cosine gate of this process fill a disk."""
    try:
        yield
    except RowsFileError as error:
        raise GateError(f"the cosine gate: {error}") from error


def gate_options(dedup: Dedup, encode: Encoder | None = None) -> dict[str, Any]:
    """What a `Deduplicator` is made with; ``encode`` is needed where it embeds texts itself."""
    return {
        "rouge": dedup.rouge,
        "cosine": dedup.cosine,
        "encoder": encode,
        "tokenizer": dedup.tokenizer,
        "embedding_index": dedup.embedding_index,
        "most_similar": dedup.most_similar,
    }


def guarded(
    gate: Deduplicator,
    config: RunConfig,
    sets: Sequence[EvaluationSet],
    embeddings: np.ndarray | None = None,
) -> Deduplicator | GuardedGate:
    """The gate behind the evaluation sets, where there are any.

    ``embeddings``, of all their texts in order, are needed where cosines are compared.
    """
    return GuardedGate(excluded_texts(config, sets, embeddings), gate) if sets else gate


@dataclass(frozen=True)
class OpenGate:
    """A run's gate, and the embedder before it.

    ``inputs`` are the `INPUT_EMBEDDINGS` that it began with; None where no cosines are compared.
    """

    gate: Deduplicator | GuardedGate
    encode: Encoder | None
    inputs: pa.Table | None

    def __len__(self) -> int:
        return len(self.gate)

    def embed(self, texts: Sequence[str]) -> np.ndarray | None:
        """The embeddings of candidates as the gate compares them; None where it compares none.

        Several threads may ask at once. ROUGE-L's duplicates are embedded too, so that decisions
        can be taken again with other thresholds.
        """
        if self.encode is None:
            return None
        return compact(self.encode(list(texts))) if texts else np.zeros((0, 0), np.float16)

    def screen(self, texts: Sequence[str], size: int, batch: int | None = None) -> Screened:
        """See `Deduplicator.screen`; with the embeddings of all texts."""
        embeddings = self.embed(texts)
        screened = self.gate.screen(texts, size, embeddings, batch)
        return replace(screened, embeddings=embeddings)

    def filter(
        self,
        texts: Sequence[str],
        embeddings: np.ndarray | None = None,
        screened: Screened | None = None,
    ) -> DedupResult:
        """See `Deduplicator.filter`."""
        return self.gate.filter(texts, embeddings, screened)

    def settle(self) -> None:
        """See `Deduplicator.settle`."""
        self.gate.settle()

    @property
    def screening_s(self) -> tuple[float, ...]:
        """See `Deduplicator.screening_s`, and `GuardedGate.screening_s`."""
        return self.gate.screening_s
