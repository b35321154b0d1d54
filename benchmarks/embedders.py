"""Texts that a core, or a card, embeds in a second: the bundled model, and a static one.

    python benchmarks/embedders.py            prints; --write also writes embedders.json
    python benchmarks/embedders.py --gpu      of the bundled model on a card, by the clock

The static model has the bundled one's tokens and a vector of 256 random numbers for each, so it
says what looking them up costs and nothing of how well such a model compares texts. Texts are
those of corpus.py. One thread; processor time, which other work does not change. On a card
tokenizing takes the processor's time beside it, and is in its number; ``furthest`` is the largest
difference of a number from the processor's.
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
ON_A_CARD = 100_000


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


def on_a_card() -> dict[str, Any]:
    """Texts a second by the clock, of the replica's own calls one after another."""
    texts = list(corpus.texts(ON_A_CARD))
    encode = embedder(MODEL).encode
    first = encode(texts[:1024])
    began = time.perf_counter()
    encode(texts)
    seconds = time.perf_counter() - began
    alone = SentenceTransformer(resolve(MODEL), device="cpu")
    expected = alone.encode(texts[:256], normalize_embeddings=True)
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "texts": len(texts),
        "texts_per_second": round(len(texts) / seconds),
        "furthest": float(np.abs(first[:256] - expected).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write benchmarks/embedders.json")
    parser.add_argument("--gpu", action="store_true", help="on a card; the rest of it is kept")
    options = parser.parse_args()
    path = Path(__file__).with_suffix(".json")
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if options.gpu:
        report["gpu"] = on_a_card()
    else:
        torch.set_num_threads(1)
        report |= {"torch": torch.__version__, "texts_per_cpu_second": {}}
        with tempfile.TemporaryDirectory() as folder:
            static(folder)
            for name, model in (("bundled", MODEL), ("static", folder)):
                report["texts_per_cpu_second"][name] = round(measured(model, TEXTS[name]), 1)
    print(json.dumps(report, indent=1))
    if options.write:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
