"""How busy the GPUs of the shipped configurations can be, and what bounds them: a simulation.

    python benchmarks/capacity_stages.py            print
    python benchmarks/capacity_stages.py --write    also capacity.json, and the page's table

Of every stage that works while replicas write, the share of its time that it needs to keep up with
them: the embedders, for every candidate; the gate's search, in a pool as large as the
target; the driver's decisions; the cores that requests take around the models, on those that the
configuration leaves. What needs more than all of its time slows the replicas down; and rounds may
leave slots without work, which is simulated request by request (`ray_si.config.rounds`).

Costs are those of capacity.json, gate.json and, for a decision, round_end.json. Assumed, not
measured: the tokens a second of a replica, and what `ray_si.pipeline.occupancy` says of embedders.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from capacity import HERE, PAGE, Costs, Model, load_costs

from ray_si.config import RunConfig
from ray_si.config.file import load_config
from ray_si.config.rounds import busy_share
from ray_si.pipeline.occupancy import embeddings_a_second

MARK = "<!-- benchmarks/capacity_stages.py -->"
RESULT = HERE / "capacity.json"
RATES = (2500.0, 8000.0)
"""Tokens a second of a replica."""

MACHINES = {"gpu-64": 64 * 8, "gpu-8-70b": 96}
"""Configurations, and the cores of the machines that they are for."""

CORES = 8
"""Of a node on which a gate shard searches."""

PASSING = 0.7
"""Share of candidates that ROUGE-L lets pass."""


def stages(
    config: RunConfig, cores: int, rate: float, costs: Costs, model: Model
) -> dict[str, Any]:
    """Share of the time that each stage needs at full GPUs; what that leaves the GPUs."""
    generator, options = config.generator, config.bootstrap
    requests = generator.replicas * rate / model.instruction_tokens  # a second
    candidates = requests * model.candidates
    taken = generator.replicas * generator.cpus + config.embedder.replicas * config.embedder.cpus
    deciding = decide_s(costs) * candidates + costs.commit_s * requests / options.prompts_per_round
    needed = {
        "embed": candidates / embeddings_a_second(config),
        "gate": candidates
        * costs.search_s(config.target_instructions / config.dedup.shards, CORES),
        "decide": deciding,
        "requests": requests * costs.request_s / (cores - taken),
    }
    latency = generator.slots / requests  # with every slot full
    a_round = options.prompts_per_round / requests
    decide = min(1.0, needed["decide"]) * a_round / latency
    share = busy_share(
        generator.slots, config.latencies, options.prompts_per_round, options.lookahead, decide
    )
    rounds = min(1.0, share)  # of sums of many floating-point numbers
    slowest = max(needed, key=lambda stage: needed[stage])
    keeps_up = min(1.0, 1 / needed[slowest])
    return {
        "candidates_per_second": round(candidates),
        "needed": {stage: round(share, 3) for stage, share in needed.items()},
        "rounds": round(rounds, 3),
        "gpus_busy": round(rounds * keeps_up, 3),
        "bound_by": slowest if keeps_up < rounds else "rounds" if rounds < 0.99 else "generate",
    }


def decide_s(costs: Costs) -> float:
    """Seconds of a core that the end of a round takes for each candidate.

    As measured for those that ROUGE-L lets pass, nearly all there; a row for the others.
    """
    found = json.loads((HERE / "round_end.json").read_text())["rouge and cosine"]
    passing = float(found["seconds"]["end_screened_cpu"] / found["candidates"])
    return PASSING * passing + (1 - PASSING) * costs.decide_s


def measure() -> dict[str, Any]:
    """Every configuration at every rate."""
    costs, model = load_costs(), Model()
    return {
        name: {
            str(round(rate)): stages(
                load_config(str(HERE.parent / "configs" / f"{name}.yaml")),
                cores,
                rate,
                costs,
                model,
            )
            for rate in RATES
        }
        for name, cores in MACHINES.items()
    }


def table(found: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        "| configuration | tokens/s of a replica | candidates/s | embed | gate | decide | requests "
        "| rounds | GPUs busy | bound by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rates in found.items():
        for rate, row in rates.items():
            needed = " | ".join(f"{100 * share:.0f} %" for share in row["needed"].values())
            lines.append(
                f"| {name} | {int(rate):,} | {row['candidates_per_second']:,} | {needed} "
                f"| {100 * row['rounds']:.0f} % | {100 * row['gpus_busy']:.0f} % "
                f"| {row['bound_by']} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="capacity.json and the page's table")
    options = parser.parse_args()
    found = measure()
    rows = table(found)
    print(rows)
    assert all(
        math.isfinite(row["gpus_busy"]) for rates in found.values() for row in rates.values()
    )
    if options.write:
        report = json.loads(RESULT.read_text()) | {"configurations": found}
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        before, _, after = Path(PAGE).read_text().split(MARK)
        Path(PAGE).write_text(f"{before}{MARK}\n{rows}\n{MARK}{after}")


if __name__ == "__main__":
    main()
