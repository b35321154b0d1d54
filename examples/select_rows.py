"""Score a run's rows, choose some by the scores, and look at the random control beside them.

Needs the run of build_dataset.py.
"""

import shutil
import sys

from ray_si import Run
from ray_si.config.scores import scores_of
from ray_si.scores.compute import compute
from ray_si.scores.subset import select

if __name__ == "__main__":
    source = Run.open(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
    for summary in compute(source, scores_of({"length": {}, "checks": {}})):
        print(summary.name, "of", summary.scored, "rows")

    for folder in ("runs/short", "runs/short-random"):
        shutil.rmtree(folder, ignore_errors=True)
    chosen = select(source, "runs/short", by="checks and length < 60", top=10)
    print(chosen.passed, "rows pass,", chosen.chosen, "are in", chosen.location)
    print("as many drawn by lot are in", chosen.control)
