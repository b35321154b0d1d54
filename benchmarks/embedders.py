"""Texts that a core embeds in a second of its time: the bundled model, and a static one.

    python benchmarks/embedders.py            prints; --write also writes embedders.json

The static model has the bundled one's tokens and a vector of 256 random numbers for each, so it
says what looking them up costs and nothing of how well such a model compares texts. Texts are
those of corpus.py. One thread; processor time, which other work does not change.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding
from transformers import AutoTokenizer

from ray_si.engines.models import resolve
from ray_si.engines.registry import embedder

MODEL = "all-minilm-l6-v2"
NUMBERS = 256
TEXTS = {"bundled": 512, "static": 20_000}


def static(folder: str) -> None:
    """Save a static model."""
    tokens = AutoTokenizer.from_pretrained(resolve(MODEL)).backend_tokenizer
    vectors = np.random.default_rng(0).standard_normal((tokens.get_vocab_size(), NUMBERS))
    module = StaticEmbedding(tokens, embedding_weights=vectors.astype(np.float32))
    SentenceTransformer(modules=[module], device="cpu").save(folder)


def measured(model: str, count: int) -> float:
    """Texts a second of processor time."""
    texts = list(corpus.texts(count))
    encode = embedder(model).encode
    encode(texts[:64])
    began = time.process_time()
    encode(texts)
    return count / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write benchmarks/embedders.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"torch": torch.__version__, "texts_per_cpu_second": {}}
    with tempfile.TemporaryDirectory() as folder:
        static(folder)
        for name, model in (("bundled", MODEL), ("static", folder)):
            report["texts_per_cpu_second"][name] = round(measured(model, TEXTS[name]), 1)
    print(json.dumps(report, indent=1))
    if options.write:
        path = Path(__file__).with_suffix(".json")
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
