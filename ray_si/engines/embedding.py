"""Sentence embeddings, by sentence-transformers."""

from __future__ import annotations

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers.utils import logging


class Embedder:
    """Encodes texts with the model in ``path``, in float32.

    Loading one turns off the progress bars of transformers in this process.
    """

    def __init__(self, path: str) -> None:
        logging.disable_progress_bar()
        self._model = SentenceTransformer(path)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings of length 1, float32, shape (n, dimension)."""
        vectors: np.ndarray = self._model.encode(
            texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors
