"""Would it pay to send prompts that begin alike to the same replica, where prefixes are cached?

    python benchmarks/prefix_order.py [--write]

Draws one round of configs/gpu-64.yaml as a build draws it, from the bundled seed tasks and a pool
of made-up instructions, and counts which tokens of its prompts a replica has cached when they come,
once with prompts dealt out in turn, as now, and once sorted, so that those that begin alike come to
one replica, one after another. A cache keeps whole blocks of 16 tokens, as vLLM's does, and here it
forgets nothing, which favours sorting.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import corpus
import pyarrow as pa

from ray_si.config.file import load_config
from ray_si.engines import bundled
from ray_si.pipeline.prompting import Prompting, rendered
from ray_si.run.schemas import ACCEPTED
from ray_si.run.seeds import load_seeds

HERE = Path(__file__).parent
RESULT = Path(__file__).with_suffix(".json")
POOL, BLOCK = 100_000, 16


def prompts() -> tuple[list[str], int]:
    """Those of a round in the order of their requests, and how many replicas there are."""
    config = load_config(HERE.parent / "configs" / "gpu-64.yaml")
    seeds, _ = load_seeds("bundled")
    prompting = Prompting(config, seeds)
    rows = [
        {"id": f"r{i:06d}", "instruction": text, "classification_prompt": False}
        for i, text in enumerate(corpus.texts(POOL))
    ]
    prompting.extend(pa.Table.from_pylist(rows, ACCEPTED))
    round_ = 1 + config.bootstrap.lookahead  # the first that sees it
    texts = [json.loads(row["prompt"]) for row in rendered(config, prompting.drawn(round_))]
    turns = [text if isinstance(text, str) else text[-1]["content"] for text in texts]
    return turns, config.generator.replicas


def dealt(texts: Sequence[str], replicas: int) -> dict[str, list[list[str]]]:
    """What each replica gets, in order, by the way of dealing prompts out."""
    size = -(-len(texts) // replicas)
    ordered = sorted(texts)
    return {
        "in_turn": [list(texts[number::replicas]) for number in range(replicas)],
        "sorted": [ordered[start : start + size] for start in range(0, len(ordered), size)],
    }


def cached(tokens: Sequence[Sequence[int]]) -> int:
    """Tokens that are cached when a prompt comes, of these in order; its last is computed anew."""
    seen: set[tuple[int, ...]] = set()
    found = 0
    for ids in tokens:
        whole = [tuple(ids[:end]) for end in range(BLOCK, len(ids), BLOCK)]
        found += BLOCK * next((n for n, key in enumerate(whole) if key not in seen), len(whole))
        seen.update(whole)
    return found


def count_tokens() -> dict[str, Any]:
    """How many tokens of a round's prompts are cached, either way."""
    from ray_si.training.base import inspect

    texts, replicas = prompts()
    tokenizer = inspect(bundled.resolve("smollm2-135m-instruct")).tokenizer
    ids = dict(zip(texts, tokenizer(texts)["input_ids"], strict=True))
    total = sum(len(ids[text]) for text in texts)
    shares = {
        way: sum(cached([ids[text] for text in part]) for part in parts) / total
        for way, parts in dealt(texts, replicas).items()
    }
    return {
        "prompts": len(texts),
        "replicas": replicas,
        "tokens_of_a_prompt": round(total / len(texts), 1),
        "cached_share": {way: round(share, 4) for way, share in shares.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"update benchmarks/{RESULT.name}")
    options = parser.parse_args()
    report = count_tokens()
    print(json.dumps(report, indent=1))
    if options.write:
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
