"""Getting hold of Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

TWICE = """
import ray_si.serving
from ray import serve
from ray_si.serving.connect import connect

for _ in range(2):
    with connect("local") as is_ours:
        assert is_ours
        assert not serve.status().applications
        serve.start(proxy_location="Disabled")
print("done")
"""


@pytest.mark.slow
def test_serve_is_looked_for_anew_in_each_ray_that_a_process_starts():
    """Both have a first job of the same number, by which Serve tells whose its client is."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["done"], done.stderr
