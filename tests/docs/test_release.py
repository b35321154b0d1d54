"""Files that a release changes agree with one another, and llms.txt leads somewhere."""

from __future__ import annotations

import re

import yaml

from ray_si import __version__
from tests.pages import ROOT, links


def test_the_citation_names_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_the_newest_changes_are_those_of_this_version():
    version, date = re.findall(r"^## \[(.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[
        0
    ]
    assert version == __version__
    assert date == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", date)


def test_what_models_are_pointed_at_is_there():
    targets = links((ROOT / "llms.txt").read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_site_leads_to_every_page():
    site = (ROOT / "mkdocs.yml").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f": {page}\n" not in site} == set()
