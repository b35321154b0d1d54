"""How well a model tells classification tasks from others, by scoring the two labels.

    python benchmarks/classification.py [SEEDS.jsonl ...] [--write]

Seed tasks say which they are, so any file of them is a test set; without one the bundled seeds are
used. Prints the area under the ROC curve, and precision, recall and F1 at several values of
``classification.threshold``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.registry import create
from ray_si.run.seeds import load_seeds
from ray_si.self_instruct.prompts import LABELS, classification_prompt

THRESHOLDS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5)


def margins(engine: Any, instructions: list[str]) -> np.ndarray:
    """Log-probability of "classification" minus that of "generation", shape (n,)."""

    async def ask() -> list[Any]:
        prompts = [classification_prompt(text, style="completion") for text in instructions]
        requests = [
            Request(p.prompt, SamplingParams(1), 0, "classification", LABELS["completion"])
            for p in prompts
        ]
        return await asyncio.gather(*[engine.generate(request) for request in requests])

    return np.array([np.subtract(*done.label_logprobs) for done in asyncio.run(ask())])


def measure(engine: Any, path: str) -> dict[str, Any]:
    """The table for one file of seed tasks."""
    seeds, digest = load_seeds(path)
    truth = np.array([seed.is_classification for seed in seeds])
    found = margins(engine, [seed.instruction for seed in seeds])
    rows = {}
    for threshold in THRESHOLDS:
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, found > threshold, average="binary", zero_division=0
        )
        accuracy = float(((found > threshold) == truth).mean())
        scores = {"precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy}
        rows[str(threshold)] = {name: round(float(value), 3) for name, value in scores.items()}
    return {
        "seeds": Path(path).name,
        "sha256": digest,
        "tasks": len(seeds),
        "classification_tasks": int(truth.sum()),
        "auc": round(float(roc_auc_score(truth, found)), 3),
        "thresholds": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="*", default=["bundled"])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    engine = create("transformers", options.model, {"max_batch": 64, "batch_tokens": 40000})
    result = {
        "model": options.model,
        "results": [measure(engine, path) for path in options.seeds],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
