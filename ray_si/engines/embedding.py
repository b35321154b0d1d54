"""Sentence embeddings, by sentence-transformers."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from torch import OutOfMemoryError
from transformers.utils import logging

from ray_si.errors import EngineError, one_line

_BATCH = {"cpu": 64, "cuda": 512}
"""Texts at a time, by kind of device: what its caches hold, what fills a card."""


class Embedder:
    """Encodes texts with the model in ``path``, in float32.

    Loading one turns off the progress bars of transformers in this process. Raises EngineError
    where it cannot be loaded, or the ``device`` has no room.
    """

    def __init__(self, path: str, device: str | None = None) -> None:
        logging.disable_progress_bar()
        self._path = path
        try:
            self._model = SentenceTransformer(path, device=device)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            what = one_line(error, 200)
            raise EngineError(f"the embedder {path} cannot be loaded: {what}") from error

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings of length 1, float32, shape (n, dimension).

        Zeros where the model knows nothing of a text. EngineError where it gives NaN or infinity,
        or a GPU has no room.
        """
        try:
            vectors: np.ndarray = self._model.encode(
                texts,
                batch_size=_BATCH.get(self._model.device.type, _BATCH["cuda"]),
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        except OutOfMemoryError as error:
            what = one_line(error, 200)
            raise EngineError(f"no room for the embedder {self._path}: {what}") from error
        if len(unusable := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
            text = one_line(texts[unusable[0]], 60)
            raise EngineError(
                f'the embedder {self._path} gives NaN for "{text}"; use another model'
            )
        return vectors
