"""The examples run, in order, and print what their page shows."""

from __future__ import annotations

import re
import runpy
import sys

import pytest

from tests.endpoint import KEY, MODEL
from tests.pages import ROOT

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
