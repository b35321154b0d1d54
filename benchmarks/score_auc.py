"""Which scores tell acceptable rows from others: areas under the ROC curve against raters' grades.

    python benchmarks/score_auc.py                  the graded rows of quickstart_rows.json
    python benchmarks/score_auc.py MINE.json        another file of such rows
    python benchmarks/score_auc.py --runs new       of these, those of runs whose name begins so
    python benchmarks/score_auc.py --run NAME=RUN   also what `ray-si score` stored of that run
    python benchmarks/score_auc.py --write          also write benchmarks/score_auc.json

Graded rows are as quickstart_rows.py commits them. A row is acceptable where most of its raters
gave A or B, so where both of two did. Log-probabilities stand with the rows. Lengths, checks, IFD
and the judge's grade depend on the texts alone: they are computed here as `ray-si score` does, the
last two by the bundled model (--no-model leaves them out). Scores that need the run (agreement, a
reward model's, your own) are read from it: `ray-si score RUN agreement`, say, then --run.

0.5 is chance, and less than that says that lower is better. Rows of runs that differ in quality
also differ in much that no score is meant to see, so take those of like runs together. The interval
is at 95 %, by Newcombe's fifth method (Statistics in Medicine 25, 2006, p. 559): that of Wilson for
a share, carried over to the variance of Hanley and McNeil. So it does not vanish where a score
parts a few rows without fault. Rows of the same instruction count as independent. Of many scores
one is the best by chance: compare intervals, not places.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si.config.scores import scores_of
from ray_si.engines import registry as engines
from ray_si.run.ids import training_row_id
from ray_si.run.run import Run
from ray_si.scores import registry
from ray_si.scores.stored import StoredScores

HERE = Path(__file__).parent
RESULT = HERE / "score_auc.json"
MODEL = "smollm2-135m-instruct"
Z = 1.959964
FEWEST = 2
"""Rows of either kind below which there is nothing to say."""

PARTS = {
    "all": lambda row: True,
    "no input": lambda row: not row["input"],
    "with input": lambda row: bool(row["input"]),
}
"""Name -> whether a row belongs to it."""


# Scores of rows --------------------------------------------------------------------------------


def of_texts(rows: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Scores that need no model, and the log-probabilities that stand with the rows."""
    checks = registry.create(scores_of({"checks": {}})["checks"])
    assert not registry.asks_a_model(checks)
    outputs = [row.get("output_logprob") for row in rows]
    instructions = [row.get("instruction_logprob") for row in rows]
    return {
        "log-probability of the answer": outputs,
        "log-probability of the instruction": instructions,
        "sum of both": [
            None if a is None or b is None else a + b
            for a, b in zip(outputs, instructions, strict=True)
        ],
        "words of the answer": [len(row["output"].split()) for row in rows],
        "words of the instruction": [len(row["instruction"].split()) for row in rows],
        "checks": [given.value for given in checks.score(rows)],
    }


def of_model(rows: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """What the bundled model says of the rows."""
    found: dict[str, list[float | None]] = {}
    engine = engines.create("transformers", MODEL, {"max_batch": 32, "threads": 2})
    for kind in ("ifd", "judge"):
        scorer = registry.create(scores_of({kind: {"generator": {"model": MODEL}}})[kind])
        assert registry.asks_a_model(scorer)

        async def given(scorer: Any = scorer) -> list[Any]:
            return await asyncio.gather(
                *(scorer.score({**row, "id": row["row"]}, engine.generate) for row in rows)
            )

        found[kind] = [item.value for item in asyncio.run(given())]
    return found


def of_runs(rows: Sequence[dict[str, Any]], runs: dict[str, str]) -> dict[str, list[float | None]]:
    """What was scored of the runs that some rows come from; of other rows it is unknown."""
    stored = {name: StoredScores(Run.open(location)) for name, location in runs.items()}
    found: dict[str, list[float | None]] = {}
    for score in sorted({name for scores in stored.values() for name in scores.names}):
        values: list[float | None] = [None] * len(rows)
        for run, scores in stored.items():
            places = [k for k, row in enumerate(rows) if row["run"] == run]
            if score not in scores.names or not places:
                continue
            ids = [training_row_id(rows[k]["id"], rows[k]["place"]) for k in places]
            of_run = scores.values(score, pa.chunked_array([ids]))
            for k, value in zip(places, of_run.tolist(), strict=True):
                values[k] = None if math.isnan(value) else value
        found[f"{score} (stored)"] = values
    return found


# Against the grades ----------------------------------------------------------------------------


def is_acceptable(row: dict[str, Any]) -> bool:
    """Whether most raters gave A or B."""
    return fmean(grade in ("A", "B") for grade in row["grades"].values()) > 0.5


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """How often an acceptable row has the higher value of two; ties count half."""
    wins = np.subtract.outer(np.array(good), np.array(bad))
    return float((wins > 0).mean() + (wins == 0).mean() / 2)


def interval(area: float, good: int, bad: int) -> tuple[float, float]:
    """The areas that are no further from this one than 1.96 of their own standard errors."""
    return _limit(area, 0.0, good, bad), _limit(area, 1.0, good, bad)


def _limit(area: float, end: float, good: int, bad: int) -> float:
    inside, outside = area, end
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(area - middle) <= Z * math.sqrt(_variance(middle, good, bad)):
            inside = middle
        else:
            outside = middle
    return inside


def _variance(area: float, good: int, bad: int) -> float:
    mean = (good + bad) / 2 - 1
    spread = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
    return area * (1 - area) * spread / (good * bad)


def measure(
    rows: Sequence[dict[str, Any]], values: dict[str, list[float | None]]
) -> list[dict[str, Any]]:
    """Each score's area, for each part of the rows that has enough of either kind."""
    found = []
    for part, belongs in PARTS.items():
        for score, of_rows in values.items():
            known = [
                (value, is_acceptable(row))
                for row, value in zip(rows, of_rows, strict=True)
                if value is not None and belongs(row)
            ]
            good = [value for value, is_good in known if is_good]
            bad = [value for value, is_good in known if not is_good]
            if min(len(good), len(bad)) < FEWEST:
                continue
            area = auc(good, bad)
            low, high = interval(area, len(good), len(bad))
            found.append(
                {
                    "part": part,
                    "score": score,
                    "acceptable": len(good),
                    "others": len(bad),
                    "auc": round(area, 3),
                    "low": round(low, 3),
                    "high": round(high, 3),
                }
            )
    return found


def table(measured: Sequence[dict[str, Any]]) -> str:
    """As Markdown: a line a score, a column a part."""
    parts = [part for part in PARTS if any(item["part"] == part for item in measured)]
    lines = [
        f"| score | {' | '.join(parts)} |",
        f"| --- |{' --- |' * len(parts)}",
    ]
    for score in dict.fromkeys(item["score"] for item in measured):
        cells = []
        for part in parts:
            of_both = (i for i in measured if (i["part"], i["score"]) == (part, score))
            cells.append(next((_cell(item) for item in of_both), "-"))
        lines.append(f"| {score} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(item: dict[str, Any]) -> str:
    of = f"{item['acceptable']} of {item['acceptable'] + item['others']}"
    return f"{item['auc']:.2f} [{item['low']:.2f}, {item['high']:.2f}], {of}"


def main() -> None:
    """Score the rows, and hold the scores against the grades."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graded", nargs="?", default=str(HERE / "quickstart_rows.json"))
    parser.add_argument("--runs", default="", help="of rows, how the names of their runs begin")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=RUN")
    parser.add_argument("--no-model", action="store_true", help="leave out IFD and judge")
    parser.add_argument("--write", action="store_true", help="write benchmarks/score_auc.json")
    arguments = parser.parse_args()
    graded = json.loads(Path(arguments.graded).read_text("utf-8"))
    rows = [row for row in graded["rows"] if row["run"].startswith(arguments.runs)]
    values = of_texts(rows)
    if not arguments.no_model:
        values |= of_model(rows)
    values |= of_runs(rows, dict(item.split("=", 1) for item in arguments.run))
    measured = measure(rows, values)
    report = {
        "graded": Path(arguments.graded).name,
        "runs": sorted({row["run"] for row in rows}),
        "raters": sorted({rater for row in rows for rater in row["grades"]}),
        "rows": len(rows),
        "acceptable": sum(map(is_acceptable, rows)),
        "model": None if arguments.no_model else MODEL,
        "scores": measured,
    }
    print(table(measured))
    if arguments.write:
        RESULT.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
