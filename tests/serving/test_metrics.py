"""The dashboard asks for metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_metric_of_the_dashboard_is_one_that_the_code_sets():
    sources = [ROOT / "ray_si" / name for name in ("serving/replicas.py", "build/watch.py")]
    code = "".join(path.read_text() for path in sources)
    counters = set(re.findall(r'Counter\("(si_\w+)"', code))
    gauges = set(re.findall(r'Gauge\("(si_\w+)"', code))
    gauges |= {
        f"si_{name}" for name in ("accepted", "candidates", "target", "instances", "dollars")
    }
    known = {f"ray_{name}_total" for name in counters} | {f"ray_{name}" for name in gauges}
    dashboard = json.loads((ROOT / "ray_si/provision/grafana/ray_si.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_si_\w+", target["expr"])
    }
    assert asked
    assert asked <= known
