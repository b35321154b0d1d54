"""The workflow for hosted CI runs what there is, on every Python that the package is for."""

from __future__ import annotations

import re

import yaml

from tests.pages import ROOT

JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]


def test_it_tests_on_the_pythons_that_the_package_names():
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert JOBS["test"]["strategy"]["matrix"]["python"] == named


def test_its_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    steps = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]
    assert steps
    for step in steps:
        make, target = step.split()
        assert make == "make"
        assert target in targets
