"""How large a cluster has to be: a simulation from the costs measured in this folder, or yours.

    python benchmarks/capacity.py                      the table of docs/capacity.md
    python benchmarks/capacity.py --write              put it there
    python benchmarks/capacity.py --target 5e6 --days 2 --tokens-per-second 9000 --cores 16

A build is stepped through from an empty pool. Each step has as many candidates as make the pool one
percent larger; it takes as long as the slower of its two sides, which overlap (lookahead):

- the replicas: requests times tokens, over what all replicas write in a second;
- the driver with the gate: parsing and deciding each candidate; choosing demonstrations, which
  hardly depends on the pool; the gate's search, in which every shard searches its part of the pool
  for every candidate, and so all take what one takes; the commit of each round.

Then the instances: two requests for each instruction, bounded by replicas alone.

Of the gate, benchmarks/gate.json has seconds a candidate at three sizes of the pool on two cores
(gate_large.json at one more), taken as straight lines between them on two logarithmic axes, and the
last line extended beyond. More cores are taken to divide them, less a tenth. The driver's costs are
those of benchmarks/capacity.json, which capacity_costs.py measures. What a model does is yours to
say: the defaults are no measurement.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "capacity.md"
MARK = "<!-- benchmarks/capacity.py -->"
DAY = 86_400.0


@dataclass(frozen=True)
class Model:
    """What depends on the model and its hardware; none of it is measured here."""

    tokens_per_second: float = 2500.0
    """That one replica writes with its slots full."""
    instruction_tokens: float = 300.0
    """Of a completion with new instructions."""
    instance_tokens: float = 200.0
    """Of a completion with instances."""
    candidates: float = 7.0
    """Usable ones in a completion."""
    acceptance: float = 0.6
    """Share of candidates that the gate accepts at 10,000 instructions."""
    decline: float = 0.08
    """By how much that share falls with each tenfold pool."""

    def accepted(self, pool: float) -> float:
        """Share of candidates accepted at a pool of that size."""
        tenfolds = max(0.0, math.log10(max(pool, 1.0)) - 4)
        return max(0.05, self.acceptance - self.decline * tenfolds)


@dataclass(frozen=True)
class Costs:
    """Measured seconds and bytes; see benchmarks/capacity_costs.py and benchmarks/gate.json."""

    search: tuple[tuple[float, float], ...]
    """(instructions in the pool, seconds of two cores for a candidate)."""
    gate_bytes: float
    """Of memory for each instruction in the ROUGE-L gate."""
    decide_s: float
    """Driver's time for a candidate: parsing, filters, tables."""
    round_s: float
    """Driver's time for each instruction of the pool in each round, choosing demonstrations."""
    driver_bytes: float
    """Of the driver's memory for each instruction, during the bootstrap."""
    instances_bytes: float
    """The same as the instances begin, on top."""
    request_s: float
    """Of a core for each request, replica's bookkeeping, handles and tasks together."""
    commit_s: float = 0.5
    """Of a round's decisions and manifest on S3."""
    embedding_bytes: float = 0.0
    """Of memory for each embedding of 384 numbers, where the cosine gate is on."""

    def search_s(self, pool: float, cores: int) -> float:
        """Seconds for a candidate against a pool of that size on so many cores."""
        points = [(math.log(n), math.log(s)) for n, s in self.search]
        x = math.log(max(pool, 1.0))
        if x <= points[0][0]:
            return math.exp(points[0][1]) * 2 / cores
        pairs = list(itertools.pairwise(points))
        (x0, y0), (x1, y1) = next((p for p in pairs if x <= p[1][0]), pairs[-1])
        seconds = math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
        return seconds * 2 / cores / (1 if cores <= 2 else 0.9)


@dataclass(frozen=True)
class Plan:
    """A cluster and what a build on it comes to."""

    target: float
    replicas: int
    shards: int
    prompts: int
    days: float
    bootstrap_days: float
    gate_share: float
    """Share of the bootstrap in which the gate's side was the slower one."""
    request_cores: float
    """Cores that requests themselves take, on all nodes together."""
    driver_gib: float
    shard_gib: float
    first: str


def simulate(
    target: float, replicas: int, shards: int, prompts: int, cores: int, model: Model, costs: Costs
) -> tuple[float, float, float]:
    """Seconds of the bootstrap, of all, and those in which the gate's side was the slower."""
    pool, bootstrap, behind = 200.0, 0.0, 0.0
    width = replicas * model.tokens_per_second
    while pool < target:
        new = min(max(0.01 * pool, 100.0), target - pool)
        candidates = new / model.accepted(pool)
        requests = candidates / model.candidates
        rounds = requests / prompts
        generating = requests * model.instruction_tokens / width
        deciding = candidates * (costs.decide_s + costs.search_s(pool / shards, cores)) + rounds * (
            costs.commit_s + pool * costs.round_s
        )
        bootstrap += max(generating, deciding)
        behind += max(generating, deciding) if deciding > generating else 0.0
        pool += new
    instances = target * model.instance_tokens / width
    return bootstrap, bootstrap + instances, behind


def plan(
    target: float,
    days: float,
    cores: int,
    memory_gib: float,
    cosine: bool,
    model: Model,
    costs: Costs,
) -> Plan:
    """The smallest cluster that makes ``target`` instructions in ``days``, or the nearest to it.

    Shards are added while the gate's side is behind for more than a tenth of the bootstrap and
    twice as many of them still help, and until each fits in a node; then replicas for the time.
    """
    each = costs.gate_bytes + costs.embedding_bytes * cosine
    shards = max(1, math.ceil(target * each / 2**30 / (0.8 * memory_gib)))
    requests = target / model.accepted(target) / model.candidates
    tokens = requests * model.instruction_tokens + target * model.instance_tokens
    replicas = max(1, math.ceil(tokens / model.tokens_per_second / (0.9 * days * DAY)))
    prompts = prompts_of(target)

    def result(shards: int, replicas: int) -> tuple[float, float, float]:
        return simulate(target, replicas, shards, prompts, cores, model, costs)

    best = result(shards, replicas)
    while best[2] > 0.1 * best[0]:
        more = result(2 * shards, replicas)
        if more[0] > 0.97 * best[0]:
            break
        shards, best = 2 * shards, more
    while best[1] > days * DAY and best[2] < 0.9 * best[0]:
        replicas = math.ceil(1.1 * replicas)
        best = result(shards, replicas)
    driver = target * (costs.driver_bytes + costs.instances_bytes)
    if shards == 1:
        driver += target * each
    return Plan(
        target,
        replicas,
        shards,
        prompts,
        best[1] / DAY,
        best[0] / DAY,
        best[2] / best[0],
        replicas
        * model.tokens_per_second
        / min(model.instruction_tokens, model.instance_tokens)
        * costs.request_s,
        driver / 2**30,
        target * each / shards / 2**30,
        _first(target, replicas, prompts, cores, memory_gib, model, costs),
    )


def prompts_of(target: float) -> int:
    """Requests in a round: a thousand rounds or so, and never so few that replicas run dry."""
    return int(min(65_536, max(512, target / 1000 / 3)))


def _first(
    target: float,
    replicas: int,
    prompts: int,
    cores: int,
    memory_gib: float,
    model: Model,
    costs: Costs,
) -> str:
    """What is full first as the pool grows, with one gate shard, and at which size."""
    width = replicas * model.tokens_per_second
    held = costs.driver_bytes + costs.instances_bytes
    pool = 10_000.0
    while pool <= target:
        if pool * held / 2**30 > 0.8 * memory_gib:
            return f"the driver's memory, at {pool:,.0f}"
        candidates = prompts * model.candidates
        parts = {
            "the gate's search": candidates * costs.search_s(pool, cores),
            "choosing demonstrations": pool * costs.round_s,
            "deciding": candidates * costs.decide_s,
        }
        generating = prompts * model.instruction_tokens / width
        if sum(parts.values()) + costs.commit_s > generating:
            return f"{max(parts, key=lambda name: parts[name])}, at {pool:,.0f}"
        pool *= 1.05
    return "the replicas, throughout"


def load_costs() -> Costs:
    """As measured: gate.json, gate_large.json, cosine.json and capacity.json of this folder."""
    gate = json.loads((HERE / "gate.json").read_text())["search"]
    largest = max(gate, key=int)
    found = {n: part["exact"] for n, part in gate.items()}
    large = json.loads((HERE / "gate_large.json").read_text())["pools"]
    found |= {n: part for n, part in large.items() if int(n) > int(largest)}
    search = tuple((float(n), 1 / part["candidates_per_second"]) for n, part in found.items())
    driver = json.loads((HERE / "capacity.json").read_text())["costs"]
    cosine = json.loads((HERE / "cosine.json").read_text())["search"]
    vectors = cosine[max(cosine, key=int)]["exact"]["resident_bytes_per_vector"]
    resident = gate[largest]["exact"]["resident_bytes_per_instruction"]
    return Costs(search, resident, embedding_bytes=vectors, **driver)


def table(plans: list[Plan]) -> str:
    """The plans as Markdown."""
    lines = [
        "| instructions | replicas | gate shards | days (bootstrap) | cores for requests "
        "| driver | a shard | full first, with one shard |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for p in plans:
        cells = (
            f"{p.target:,.0f}",
            f"{p.replicas:,}",
            f"{p.shards}",
            f"{p.days:.2g} ({p.bootstrap_days:.2g})",
            f"{p.request_cores:.2g}",
            f"{p.driver_gib:,.1f} GiB",
            f"{p.shard_gib:,.1f} GiB",
            p.first,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=float, nargs="+", default=[1e6, 1e8, 1e9])
    parser.add_argument("--days", type=float, default=7.0, help="until it has to be there")
    parser.add_argument("--cores", type=int, default=8, help="of a gate shard's node")
    parser.add_argument("--memory", type=float, default=64.0, help="GiB of a node")
    parser.add_argument("--cosine", action="store_true", help="memory of the cosine gate, too")
    for field in fields(Model):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=float, default=field.default, metavar="N"
        )
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    options = parser.parse_args()
    model = Model(**{field.name: getattr(options, field.name) for field in fields(Model)})
    costs = load_costs()
    rows = table(
        [
            plan(target, options.days, options.cores, options.memory, options.cosine, model, costs)
            for target in options.target
        ]
    )
    print(rows)
    if options.write:
        before, _, after = PAGE.read_text().split(MARK)
        PAGE.write_text(f"{before}{MARK}\n{rows}\n{MARK}{after}")


if __name__ == "__main__":
    main()
