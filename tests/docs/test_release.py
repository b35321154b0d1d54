"""Files that a release changes agree with one another, and llms.txt leads somewhere."""

from __future__ import annotations

import yaml

from ray_si import __version__
from tests.pages import ROOT, links


def test_the_citation_names_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_what_models_are_pointed_at_is_there():
    targets = links((ROOT / "llms.txt").read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_site_leads_to_every_page():
    site = (ROOT / "mkdocs.yml").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f": {page}\n" not in site} == set()
