"""What the quick start's rows are worth, graded blind beside those of the quick start before.

    ray-si build configs/quickstart.yaml --set seed=1 --out runs/new-1
    python benchmarks/quickstart_rows.py stored runs/new-1 new-1   its rows, runs/rows/new-1.json
    python benchmarks/quickstart_rows.py page A-0 B-0 ...          runs/rows/page.html, and its key
    python benchmarks/quickstart_rows.py commit RATINGS ... --runs A-0,B-0
                                       [--to FILE]                 benchmarks/quickstart_rows.json
    python benchmarks/quickstart_rows.py                           print the table of that file

The former quick start is benchmarks/quickstart_former.yaml; names of its runs begin with "former".
The first forty rows of a run are graded. The page is that of `evaluate`, without references: the
rows of all runs in one order, under tokens that say nothing of where they come from. Grades are the
paper's, A to D; A and B are acceptable. What scores say of these grades, score_auc.py tells.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ray_si.export.rows import training_rows
from ray_si.records import Instance
from ray_si.run.run import Run
from ray_si.training.ratings import GRADES, load_ratings, make_page, summarize
from ray_si.training.tasks import Example

HERE = Path(__file__).parent
FOLDER = HERE.parent / "runs" / "rows"
RESULT = HERE / "quickstart_rows.json"
FIRST = 40
"""Rows of a run that are graded."""

EVALUATION = "quickstart-rows"


def stored(location: str) -> dict[str, Any]:
    """The rows of a run that a build has finished, with their likelihoods, and its counts."""
    run = Run.open(location)
    stats = run.stats()
    assert stats is not None, "the run is not finished"
    accepted = (row for table in run.accepted(["id", "mean_logprob"]) for row in table.to_pylist())
    logprobs = {row["id"]: row["mean_logprob"] for row in accepted}
    rows = [
        {
            "id": row["instruction_id"],
            "place": int(row["id"].rpartition("-")[2]),
            **{name: row[name] for name in ("instruction", "input", "output")},
            "instruction_logprob": logprobs[row["instruction_id"]],
            "output_logprob": row.get("output_logprob"),
        }
        for row in training_rows(run)
    ]
    counts = {name: stats[name] for name in ("candidates", "accepted", "rejected")}
    return {
        "instructions": counts,
        "instances_rejected": stats["instances_rejected"],
        "left_out": stats.get("left_out", {}),
        "rows": rows,
    }


# Grading ---------------------------------------------------------------------------------------


def mixed(runs: Sequence[str]) -> list[dict[str, Any]]:
    """The first rows of runs, each with an id that does not tell which, in an order of chance."""
    rows = []
    for run in runs:
        data = json.loads((FOLDER / f"{run}.json").read_text("utf-8"))
        for place, row in enumerate(data["rows"][:FIRST]):
            id_ = hashlib.sha256(f"{run}/{place}".encode()).hexdigest()[:12]
            rows.append({"row": id_, "run": run, **row})
    random.Random(0).shuffle(rows)
    return rows


def page_of(rows: Sequence[dict[str, Any]]) -> tuple[str, Any]:
    """The raters' page of these rows, and its key."""
    examples = [
        Example(r["row"], r["row"], r["instruction"], Instance(r["input"], ""), ("",)) for r in rows
    ]
    answers = {"row": [{"text": row["output"]} for row in rows]}
    return make_page(examples, answers, count=len(rows), seed=0, evaluation=EVALUATION)


def commit(runs: Sequence[str], ratings: Sequence[str], to: Path = RESULT) -> None:
    """Write rows with their grades, and what the runs took, to the committed file or another."""
    rows = mixed(runs)
    _, key = page_of(rows)
    by_row = {entry["example"]: token for token, entry in key.items()}
    raters = [load_ratings(path, EVALUATION, key) for path in ratings]
    for row in rows:
        row["grades"] = {r.name: r.grades[by_row[row["row"]]] for r in raters}
    took = {}
    for run in runs:
        data = json.loads((FOLDER / f"{run}.json").read_text("utf-8"))
        took[run] = {k: v for k, v in data.items() if k != "rows"}
    agreement = summarize(raters, key)
    result = {"runs": took, "agreement": agreement["pairs"], "rows": rows}
    to.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


# The table -------------------------------------------------------------------------------------


def table(path: Path = RESULT) -> str:
    """What the grades of a file come to, as Markdown."""
    result = json.loads(path.read_text("utf-8"))
    rows = result["rows"]
    lines = [
        "| run | rows | acceptable, by reading | with input | first three words | first words "
        "| distinct-2 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    families = Counter(run.split("-")[0] for run in result["runs"])
    for name in [*result["runs"], *(family for family in families if families[family] > 1)]:
        part = [r for r in rows if r["run"] == name or r["run"].split("-")[0] == name]
        lines.append(_line(name, part))
    for words, has_input in (("with", True), ("without", False)):
        part = [r for r in rows if r["run"].startswith("new") and bool(r["input"]) == has_input]
        lines.append(_line(f"new, {words} an input", part))
    return "\n".join(lines)


def _line(name: str, part: list[dict[str, Any]]) -> str:
    good = [sum(is_good(r, k) for r in part) for k in part[0]["grades"]]
    return (
        f"| {name} | {len(part)} | {', '.join(f'{100 * g / len(part):.0f} %' for g in good)} | "
        f"{sum(bool(r['input']) for r in part)} | {len({_first(r, 3) for r in part})} | "
        f"{len({_first(r, 1) for r in part})} | {_distinct_2(part):.2f} |"
    )


def is_good(row: dict[str, Any], rater: str) -> bool:
    """Whether a rater finds a row acceptable."""
    return row["grades"][rater] in ("A", "B")


def _first(row: dict[str, Any], count: int) -> str:
    return " ".join(row["instruction"].lower().split()[:count])


def _distinct_2(rows: list[dict[str, Any]]) -> float:
    words = [row["instruction"].lower().split() for row in rows]
    pairs = [pair for text in words for pair in pairwise(text)]
    return len(set(pairs)) / max(1, len(pairs))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("stored", "page", "commit"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", default="")
    parser.add_argument("--to", type=Path, default=RESULT)
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.what == "stored":
        location, name = arguments.names
        text = json.dumps(stored(location), indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text, "utf-8")
    elif arguments.what == "page":
        page, key = page_of(mixed(arguments.names))
        (FOLDER / "page.html").write_text(page, "utf-8")
        (FOLDER / "key.json").write_text(json.dumps(key), "utf-8")
        print(f"{FOLDER}/page.html: {len(key)} rows; grades {', '.join(GRADES)}")
    elif arguments.what == "commit":
        commit(arguments.runs.split(","), arguments.names, arguments.to)
        print(table(arguments.to))
    else:
        print(table(arguments.to))


if __name__ == "__main__":
    main()
