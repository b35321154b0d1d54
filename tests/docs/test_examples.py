"""The examples run, in order, and print what their page shows."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys

import pytest

from ray_si import Run
from ray_si.config.scores import scores_of
from ray_si.scores.compute import compute
from tests.command import ENVIRONMENT
from tests.endpoint import KEY, MODEL
from tests.pages import ROOT, blocks

PAGE = (ROOT / "examples" / "README.md").read_text()
SHOWN = dict(re.findall(r"^## `(\w+)\.py`\n.*?^```text\n(.*?)^```$", PAGE, re.M | re.S))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where they run: what they read of the checkout is there, and what they write goes there."""
    path = tmp_path_factory.mktemp("examples")
    (path / "configs").symlink_to(ROOT / "configs")
    return path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs an example in this process; its output."""

    def run(name, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_page_shows_the_output_of_every_example():
    assert set(SHOWN) == {path.stem for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize("name", ["clean_corpus", "dedup_corpus", "thai_texts"])
def test_what_needs_no_run_prints_what_the_page_shows(run, name):
    assert run(name) == SHOWN[name]


def test_a_build_and_what_goes_on_from_it_print_what_the_page_shows(ray_session, run):
    for name in ("build_dataset", "read_rows", "select_rows"):
        assert run(name).splitlines()[-1] == SHOWN[name].splitlines()[-1], name
        if name != "build_dataset":  # which tells its progress, too
            assert run(name) == SHOWN[name]


def test_an_endpoint_is_asked(ray_session, endpoint, run, monkeypatch):
    monkeypatch.setenv("RAY_SI_TEST_KEY", KEY)
    printed = run("ask_endpoint", endpoint.url, MODEL, "RAY_SI_TEST_KEY")
    assert re.fullmatch(r"\d+ rows of 20 instructions\n", printed)
    assert not printed.startswith("0 ")


@pytest.mark.slow
def test_preferences_reach_trls_trainer_and_print_what_the_page_shows(ray_session, run):
    assert run("train_preferences") == SHOWN["train_preferences"]


@pytest.mark.slow
def test_a_job_on_a_cluster_prints_what_the_page_shows(folder):
    """In a process of its own: it starts a Ray beside that of the tests."""
    command = [sys.executable, str(ROOT / "examples" / "job_on_cluster.py"), str(folder / "job")]
    printed = subprocess.check_output(command, cwd=folder, env=ENVIRONMENT, text=True)
    assert printed == SHOWN["job_on_cluster"]


def patterns(page, root):
    """The files that a page's tree of a folder names: how each is shown, and a pattern for it."""
    trees = [text for kind, text in blocks((ROOT / "docs" / page).read_text()) if kind == "text"]
    (tree,) = [tree for tree in trees if root in tree]
    found = {}
    for line in tree.splitlines():
        names = re.split(r" {3,}", line.strip())[0].removesuffix(" ...")
        for name in filter(str.strip, names.removeprefix(root).split("  ")):
            shown = name.strip()
            pattern = re.escape(shown).replace(r"\{", "(?:").replace(r"\}", ")")
            pattern = re.sub(r"(?<=[\w)]),(?=\w)", "|", pattern).replace(r"\*", ".+")
            found[shown] = re.sub(r"\d+", r"\\d+", pattern) + (".*" if shown.endswith("/") else "")
    return found


def check_files(location, found, absent):
    """Each file is one that the page names, and each that it names is there but for ``absent``."""
    files = [str(path.relative_to(location)) for path in location.rglob("*") if path.is_file()]
    assert files
    assert [f for f in files if not any(re.fullmatch(p, f) for p in found.values())] == []
    missing = {n for n, p in found.items() if not any(re.fullmatch(p, f) for f in files)}
    assert missing == absent


SOMETIMES = {
    "decontaminate.parquet",
    "bootstrap/round-00000/block-00000-00002.parquet",
    "checkpoint/",
    "live.json",
    "job/outcome.json",
    "job/driver-*.log",
}
"""Of a run: with evaluation sets, after a crash, while it is built, in a job."""


def test_a_run_has_the_files_that_its_page_names(finished_with_cosine):
    location, _ = finished_with_cosine
    check_files(location, patterns("runs.md", "RUN/"), SOMETIMES)


def test_scores_have_the_files_that_their_page_names(finished, tmp_path):
    compute(Run.open(str(finished[0])), scores_of({"length": {}}), str(tmp_path / "RUN/scores"))
    found = patterns("scores.md", "RUN/scores/length-1a2b3c4d/")
    check_files(next((tmp_path / "RUN" / "scores").iterdir()), found, set())
