"""README.md and docs/: what they must have, and where their links lead."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import typer

from ray_si.cli import app
from tests.command import ENVIRONMENT
from tests.pages import ROOT, anchors, blocks, command_lines, links

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
EVERY_PAGE = [*PAGES, *sorted((ROOT / "cluster").glob("*.md")), ROOT / "examples" / "README.md"]


def named(page):
    return str(page.relative_to(ROOT))


def test_the_readme_is_short_and_begins_with_the_two_commands_that_matter():
    text = README.read_text()
    assert len(text.splitlines()) <= 170
    assert len(text.split()) <= 900
    assert [line.split("#")[0].strip() for line in command_lines(text)[:2]] == [
        "make demo",
        "make test",
    ]


def test_the_readme_and_the_first_page_lead_to_every_page():
    index = ROOT / "docs" / "index.md"
    found = {f"docs/{link.partition('#')[0]}" for link in links(index.read_text())}
    found |= {link.partition("#")[0] for link in links(README.read_text())}
    assert {named(page) for page in PAGES[1:]} <= found


def test_the_readme_names_every_verb():
    table = README.read_text().partition("## Verbs")[2].partition("## ")[0]
    verbs = vars(typer.main.get_command(app))["commands"]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.M)
    assert set(re.findall(r"`([a-z-]+)`", " ".join(rows[1:]))) == set(verbs)


@pytest.mark.parametrize("page", EVERY_PAGE, ids=named)
def test_links_lead_to_files_and_headings_that_there_are(page):
    for link in links(page.read_text()):
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.read_text()), link


def test_the_readme_shows_what_the_demo_printed():
    result = json.loads((ROOT / "benchmarks" / "quickstart.json").read_text())
    shown = dict(blocks(README.read_text()))
    assert set(shown["text"].splitlines()) <= set(result["printed"])
    row = json.loads(shown["json"])
    (same,) = [each for each in result["training_rows"] if row.items() <= each.items()]
    assert same["round"] == row["round"]


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
