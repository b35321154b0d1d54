"""README.md and docs/: their commands parse, their links lead somewhere, their code compiles."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys

import pytest
import typer

from ray_si.cli import app
from ray_si.config.file import read_values
from ray_si.config.scores import scores_of
from tests.command import ENVIRONMENT
from tests.pages import ROOT, anchors, command_lines, commands, links, parse

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
EVERY_PAGE = [*PAGES, *sorted((ROOT / "cluster").glob("*.md")), ROOT / "examples" / "README.md"]


def named(page):
    return str(page.relative_to(ROOT))


def test_the_readme_is_short_and_begins_with_the_two_commands_that_matter():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert [line.split("#")[0].strip() for line in command_lines(text)[:2]] == [
        "make demo",
        "make test",
    ]


def test_the_readme_leads_to_every_page():
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= set(links(README.read_text()))


def test_the_readme_names_every_verb():
    table = README.read_text().partition("## Verbs")[2].partition("## ")[0]
    verbs = vars(typer.main.get_command(app))["commands"]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.M)
    assert set(re.findall(r"`([a-z-]+)`", " ".join(rows[1:]))) == set(verbs)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_our_commands_take_the_arguments_given(page):
    for words in commands(command_lines(page.read_text()), "ray-si"):
        parse(typer.main.get_command(app), words)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_overrides_in_commands_name_keys_that_there_are(page):
    reference = (ROOT / "docs" / "configuration.md").read_text()
    for words in commands(command_lines(page.read_text()), "ray-si"):
        overrides = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
        if words[1] == "score":
            values = read_values(None, [f"scores.{override}" for override in overrides])
            scores_of(values.get("scores", {}))
            continue
        for override in overrides:
            assert f"`{override.partition('=')[0]}`" in reference or "prices" in override, override
        read_values(None, overrides)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_commands_name_are_there(page):
    for line in command_lines(page.read_text()):
        for word in re.findall(r"\b(?:configs|jobs|benchmarks|examples)/[\w./-]+\w", line):
            assert (ROOT / word).exists(), f"{word} in: {line}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_in_pages_compiles_and_imports_what_there_is(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M):
        body = ast.parse(block).body
        imports = [item for item in body if isinstance(item, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), str(page), "exec"), {})


@pytest.mark.parametrize("page", EVERY_PAGE, ids=named)
def test_links_lead_to_files_and_headings_that_there_are(page):
    for link in links(page.read_text()):
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.read_text()), link


def test_the_readme_shows_what_the_example_prints():
    script = ROOT / "examples" / "dedup_corpus.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert f"$ python examples/dedup_corpus.py\n{done.stdout}```" in README.read_text()


def test_modules_that_the_architecture_names_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = re.findall(r"`((?:tests/)?[a-z_]+/[a-z_]+\.py)`", text)
    assert len(modules) > 10
    for module in modules:
        assert (ROOT / module).is_file() or (ROOT / "ray_si" / module).is_file(), module


def test_the_architecture_names_every_room():
    rooms = {path.parent.name for path in (ROOT / "ray_si").glob("*/__init__.py")}
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert rooms <= set(re.findall(r"`(\w+)/`", text))
