"""What each way of asking for instructions does to acceptance, diversity and scores.

    python benchmarks/presets.py                   measure what presets.json lacks, and print
    python benchmarks/presets.py --write           also write each to benchmarks/presets.json
    python benchmarks/presets.py --only plan       that one again, whatever there is

The presets in configs/ with the bundled model, each with as many prompts: topics, plan, evolve and
template, and beside them plain prompts, which are those of configs/topics.yaml without topics.
Requests, filters, gate and scores are those of a build and of `ray-si score`, in this process
without Ray. The first instructions that are accepted get an answer each, and their rows are scored.

Acceptance is of all candidates. Distinct-2 (arXiv 1510.03055), self-BLEU (arXiv 1802.01886) and the
Vendi score (arXiv 2210.02410) are those of the report, over the same number of accepted
instructions where there are as many. The rows are left in runs/rows/preset-NAME.json, from which
quickstart_rows.py makes a page for raters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si import load_config
from ray_si.config import RunConfig
from ray_si.config.scores import scores_of
from ray_si.dedup.vocabulary import Vocabulary
from ray_si.engines import registry as engines
from ray_si.pipeline.decisions import all_candidates, decide_round, passed, texts_of
from ray_si.pipeline.instances import pool_of
from ray_si.pipeline.prompting import Prompting, instruction_request
from ray_si.planning.preview import DryRun, raw_row
from ray_si.report.diversity import Vendi, distinct, self_bleu
from ray_si.run.schemas import embeddings_of
from ray_si.scores import registry

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
ROWS = HERE.parent / "runs" / "rows"
RESULT = HERE / "presets.json"
CASES: dict[str, tuple[str, list[str]]] = {
    "plain": ("topics", ["bootstrap.topics=[]"]),
    "topics": ("topics", []),
    "plan": ("plan", []),
    "evolve": ("evolve", []),
    "template": ("template", []),
    "template with topics": ("template", ["bootstrap.topics=topics/topics.txt"]),
}
"""Name -> configuration in configs/, and what is set in it."""

ROUNDS = 5
ANSWERED = 80
"""Accepted instructions that get an answer."""
COMPARED = 60
"""Accepted instructions whose diversity is measured."""
EXAMPLES = 6
MODEL = "smollm2-135m-instruct"


def settings(name: str, overrides: Sequence[str]) -> RunConfig:
    """A case's configuration, with a target that it will not reach."""
    config, own = CASES[name]
    path = CONFIGS / f"{config}.yaml"
    return load_config(path, [*own, "target_instructions=1000000", *overrides])


def measure(config: RunConfig, rounds: int, answered: int) -> tuple[dict[str, Any], list[Any]]:
    """What some rounds come to, and the rows of the first that were accepted."""
    began, dry_run = time.process_time(), DryRun(config)
    accepted, counts, refused = bootstrap(dry_run, config, rounds)
    pool = pool_of(accepted)[:answered]
    rows = rows_of(dry_run, pool, accepted["mean_logprob"].to_pylist()[:answered])
    generating = time.process_time() - began
    del dry_run  # one engine at a time
    texts, vectors = accepted["instruction"].to_pylist(), embeddings_of(accepted)
    found = {
        **counts,
        "acceptance": _rounded(counts["accepted"] / max(1, counts["candidates"])),
        "refused": dict(refused.most_common()),
        "diversity": diversity(texts[:COMPARED], None if vectors is None else vectors[:COMPARED]),
        "answered": len(pool),
        "rows": len(rows),
        "processor_seconds": round(generating),
    }
    return found, rows


def bootstrap(
    dry_run: DryRun, config: RunConfig, rounds: int
) -> tuple[pa.Table, dict[str, int], Counter[str]]:
    """So many rounds: what is accepted, counts, and why candidates were refused."""
    prompting, gate = Prompting(config, dry_run.seeds), dry_run.gate()
    tables: list[pa.Table] = []
    counts: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for round_ in range(rounds):
        drawn = prompting.requests(round_)
        requests = [instruction_request(config, prompting.render(a), a.seed) for a in drawn]
        rows = [raw_row(a, done) for a, done in zip(drawn, dry_run.answer(requests), strict=True)]
        embeddings = gate.embed(texts_of(passed(all_candidates(config, rows))))
        accepted, _, manifest, _ = decide_round(
            config,
            round_,
            rows,
            config.target_instructions,
            lambda usable, vectors=embeddings: gate.filter(texts_of(usable), vectors),
            embeddings=embeddings,
        )
        prompting.extend(accepted)
        tables.append(accepted)
        refused.update(manifest["rejected"])
        for name in ("requests", "prompt_tokens", "completion_tokens", "candidates", "accepted"):
            counts[name] += manifest[name]  # type: ignore[literal-required]
    return pa.concat_tables(tables), dict(counts), refused


def rows_of(
    dry_run: DryRun, pool: Sequence[Any], logprobs: Sequence[float | None]
) -> list[dict[str, Any]]:
    """The training rows of instructions, as quickstart_rows.py has them."""
    rows = []
    for item, logprob, written in zip(pool, logprobs, dry_run.write(pool), strict=True):
        chosen = [answer for answer in written.answers if answer["is_chosen"]]
        for place, (instance, answer) in enumerate(zip(written.kept, chosen, strict=True)):
            rows.append(
                {
                    "id": item.id,
                    "place": place,
                    "instruction": item.instruction,
                    **instance,
                    "instruction_logprob": logprob,
                    "output_logprob": answer["mean_logprob"],
                }
            )
    return rows


def diversity(texts: list[str], vectors: np.ndarray | None) -> dict[str, Any]:
    """As the report has it, of accepted instructions."""
    encoded = Vocabulary().encode(texts, grow=True)
    bounds = zip(encoded.offsets[:-1].tolist(), encoded.offsets[1:].tolist(), strict=True)
    vendi = Vendi()
    if vectors is not None:
        vendi.add(vectors)
    return {
        "texts": len(texts),
        "distinct_2": distinct(encoded, 2)[1] if texts else None,
        "self_bleu": self_bleu([encoded.tokens[start:end].tolist() for start, end in bounds]),
        "vendi": vendi.score(),
        "words": _mean(len(text.split()) for text in texts),
    }


def scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the rows: log-probabilities, what checks pass, and how little an instruction helps."""
    passing = registry.create(scores_of({"checks": {}})["checks"])
    assert not registry.asks_a_model(passing)
    checked = passing.score(rows)
    ifd = registry.create(scores_of({"ifd": {"generator": {"model": MODEL}}})["ifd"])
    assert registry.asks_a_model(ifd)
    engine = engines.create("transformers", MODEL, ifd.generator.engine_options())

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(ifd.score(row, engine.generate) for row in rows))

    difficulties = asyncio.run(all_of_them())
    for row, check, difficulty in zip(rows, checked, difficulties, strict=True):
        row |= {"checks": check.value, "ifd": difficulty.value}
    known = [row["ifd"] for row in rows if row["ifd"] is not None]
    return {
        "logprob": _mean(row["output_logprob"] for row in rows),
        "instruction_logprob": _mean(row["instruction_logprob"] for row in rows),
        "checks": _mean(row["checks"] for row in rows),
        "ifd_median": _rounded(median(known)) if known else None,
        "with_input": sum(bool(row["input"]) for row in rows),
        "output_words": _mean(len(row["output"].split()) for row in rows),
    }


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(fmean(known)) if known else None


def _rounded(value: float) -> float:
    return round(value, 4)


def main() -> None:
    """Measure every case that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(CASES), help="measure it again")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--answered", type=int, default=ANSWERED)
    parser.add_argument("--set", action="append", default=[], help="of every configuration")
    parser.add_argument("--write", action="store_true", help="write benchmarks/presets.json")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "model": MODEL,
        "rounds": arguments.rounds,
        "answered": arguments.answered,
        "compared": COMPARED,
        "cases": {},
    }
    if RESULT.exists():
        stored = json.loads(RESULT.read_text("utf-8"))
        if {**stored, "cases": {}} == report:
            report = stored
    for name in arguments.only or [name for name in CASES if name not in report["cases"]]:
        started = time.monotonic()
        found, rows = measure(settings(name, arguments.set), arguments.rounds, arguments.answered)
        found["scores"] = scores(rows)
        found["examples"] = [
            {key: row[key] for key in ("instruction", "input", "output")} for row in rows
        ][:EXAMPLES]
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        report["cases"] = {
            case: found if case == name else report["cases"][case]
            for case in CASES
            if case == name or case in report["cases"]
        }
        ROWS.mkdir(parents=True, exist_ok=True)
        made = json.dumps({"rows": rows}, indent=1, ensure_ascii=False)
        (ROWS / f"preset-{name.replace(' ', '-')}.json").write_text(made, "utf-8")
        if arguments.write:
            text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
            RESULT.write_text(text, "utf-8")
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
