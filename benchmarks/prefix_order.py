"""Would it pay to send prompts that begin alike to the same replica, where prefixes are cached?

    python benchmarks/prefix_order.py --write                 how many tokens are cached
    python benchmarks/prefix_order.py --only engine --write   how long vLLM takes; needs vLLM

``tokens`` draws one round of configs/gpu-64.yaml as a build draws it, from the bundled seed tasks
and a pool of made-up instructions, and counts which tokens of its prompts a replica has cached when
they come, once with prompts dealt out in turn, as now, and once sorted, so that those that begin
alike come to one replica, one after another. A cache keeps whole blocks of 16 tokens, as vLLM's
does, and here it forgets nothing, which favours sorting.

``engine`` has vLLM, with its prefix cache on, answer the prompts that one of the 64 replicas would
get, in either way, with the bundled model; each way several times, in turn. Every answer has
`ANSWER` tokens. A cache begins empty.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
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
POOL, BLOCK, ANSWER, PASSES = 100_000, 16, 128, 3
CONTEXT = 2048


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


def time_engine() -> dict[str, Any]:
    """Seconds that vLLM takes for what one replica gets, either way."""
    from vllm import LLM, SamplingParams

    texts, replicas = prompts()
    parts = {way: parts[replicas // 2] for way, parts in dealt(texts, replicas).items()}
    llm = LLM(
        bundled.resolve("smollm2-135m-instruct"),
        enable_prefix_caching=True,
        max_model_len=CONTEXT,
        disable_log_stats=False,
    )
    sampling = SamplingParams(temperature=1.0, max_tokens=ANSWER, ignore_eos=True, seed=0)
    sampling_none = SamplingParams(temperature=0.0, max_tokens=1)
    llm.generate(texts[:4], sampling_none, use_tqdm=False)
    seconds: dict[str, list[float]] = {way: [] for way in parts}
    prefill: dict[str, list[float]] = {way: [] for way in parts}
    shares = {}
    for _ in range(PASSES):
        for way, part in parts.items():
            for found, parameters in ((prefill, sampling_none), (seconds, sampling)):
                llm.reset_prefix_cache()
                began = time.perf_counter()
                outputs = llm.generate(part, parameters, use_tqdm=False)
                found[way].append(round(time.perf_counter() - began, 2))
            total = sum(len(output.prompt_token_ids or ()) for output in outputs)
            shares[way] = round(sum(o.num_cached_tokens or 0 for o in outputs) / total, 4)
    middle = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "prompts": len(parts["sorted"]),
        "tokens_of_an_answer": ANSWER,
        "cached_share": shares,
        "seconds_of_prompts": prefill,
        "seconds": seconds,
        "sorted_takes": round(middle["sorted"] / middle["in_turn"], 3),
        "cores": os.cpu_count(),
    }


PARTS = {"tokens": count_tokens, "engine": time_engine}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, default="tokens")
    parser.add_argument("--write", action="store_true", help=f"update benchmarks/{RESULT.name}")
    options = parser.parse_args()
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    report[options.only] = PARTS[options.only]()
    print(json.dumps(report, indent=1))
    if options.write:
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
