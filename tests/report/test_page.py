"""The page: nothing in it but what was meant, whatever the texts and the state of the run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from ray_si.report import rows as rows_module
from ray_si.report.contents import RunContents
from ray_si.report.files import write_report
from ray_si.report.page import _rejections, render
from ray_si.report.statistics import collect
from tests.report.made import HOSTILE, made_run, texts

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Tags, attributes and what stands in script and style elements; complains of wrong nesting."""

    def __init__(self, data: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.text: list[str] = []
        self.feed(data.decode("utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in self.inside:
            self.inside[tag].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data
        else:
            self.text.append(data)

    @property
    def data(self):
        return json.loads(self.inside["script"][0])

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def page_of(location):
    return Page(render(*collect(RunContents.open(str(location)))))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    location = tmp_path_factory.mktemp("plain") / "run"
    made_run(location)
    return page_of(location)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    location = tmp_path_factory.mktemp("hostile") / "run"
    instructions = [f"{HOSTILE[k % 5]} {k}" for k in range(60)]
    made_run(location, instructions=instructions, outputs=HOSTILE, rejected=list(HOSTILE))
    return page_of(location)


def test_generated_text_adds_no_element_and_no_attribute(plain, hostile):
    assert plain.count("script") == hostile.count("script") == 3
    assert hostile.count("img") == 0
    names = {name for _, attributes in plain.tags for name in attributes}
    assert {name for _, attributes in hostile.tags for name in attributes} <= names
    assert not any(name.startswith("on") or name == "style" for name in names)


def test_generated_text_arrives_as_it_was(hostile):
    shown = {row["text"] for row in hostile.data["accepted"]}
    assert shown == {f"{HOSTILE[k % 5]} {k}" for k in range(60)}
    outputs = {pair["output"] for row in hostile.data["accepted"] for pair in row["instances"]}
    assert outputs == set(HOSTILE)


def test_the_page_lets_run_and_load_nothing_but_its_own(plain):
    policy = next(a["content"] for tag, a in plain.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    for name, content in (
        ("script", plain.inside["script"][2]),
        ("style", plain.inside["style"][0]),
    ):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    for _, attributes in plain.tags:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")


def test_the_page_can_be_walked_without_a_mouse_and_read_aloud(plain):
    tags = [tag for tag, _ in plain.tags]
    assert {"header", "nav", "main", "footer", "h1"} <= set(tags)
    ids = [attributes["id"] for _, attributes in plain.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in plain.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag == "a":
            assert attributes["href"][1:] in ids
        assert attributes.get("aria-labelledby", ids[0]) in ids
    assert tags.count("figure") == tags.count("figcaption")
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_request_seeds_keep_every_digit(plain):
    assert {row["seed"] for row in plain.data["accepted"]} == {str(2**62 + k) for k in range(4)}


def test_rows_say_where_they_come_from(plain):
    data = plain.data
    late = next(row for row in data["accepted"] if row["round"] == 2)
    assert late["demonstrations"][-1] == "r00000-00001-00"
    assert data["texts"]["r00000-00001-00"] == texts(60)[1]
    assert late["nearest_seed"]["id"] in data["texts"]
    close = next(row for row in data["rejected"] if row["reason"] == "rouge")
    assert (close["match"], close["score"]) == (texts(1)[0], 0.75)
    assert close["seed"] == str(2**62)
    assert "seed_001" in close["demonstrations"]


def test_a_megabyte_in_every_field_stays_a_small_page(tmp_path):
    huge = "\u2028<&'" * 250_000  # the worst that escaping can make of a text
    run = [f"{k} {huge}" for k in range(3)]
    made_run(tmp_path / "run", instructions=run, outputs=[huge], rejected=[huge] * 4)
    data = render(*collect(RunContents.open(str(tmp_path / "run"))))
    assert len(data) < 1_000_000
    text = Page(data).data["accepted"][0]["text"]
    assert text.startswith("0 \u2028<&'")
    assert text.endswith("more characters are not shown]")


def test_what_the_browser_holds_is_bounded_and_said_to_be_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "MOST_ACCEPTED", 10)
    monkeypatch.setattr(rows_module, "MOST_REJECTED_EACH", 2)
    monkeypatch.setattr(rows_module, "ACCEPTED_BYTES", 4000)
    made_run(tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert 0 < len(page.data["accepted"]) < 10
    assert len(page.data["rejected"]) == 6
    note = next(text for text in page.text if text.startswith("This page holds"))
    assert "of 60 accepted instructions" in note
    assert "a sample of 6 of 36 rejected candidates" in note


def test_the_same_run_gives_the_same_page_wherever_it_lies(tmp_path):
    for name in ("one", "other"):
        made_run(tmp_path / name)
        write_report(str(tmp_path / name), str(tmp_path / f"{name}.html"))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "other.html").read_bytes()


def test_unknown_reasons_are_shown_by_themselves(tmp_path, monkeypatch):
    from tests.report import made

    monkeypatch.setattr(made, "REASONS", ("new_reason<b>", "too_short", "keyword"))
    made_run(tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert "new_reason<b>" in page.text
    assert page.count("b") == 0


def _does_not_load(name):
    raise OSError("[E053] Could not read config file")


@pytest.mark.parametrize(
    "missing", [{"find_spec": lambda name: None}, {"find_spec": str, "_load": _does_not_load}]
)
def test_without_a_parser_that_loads_the_page_says_how_to_get_one(tmp_path, monkeypatch, missing):
    for name, value in missing.items():
        monkeypatch.setattr(f"ray_si.report.verbs.{name}", value)
    made_run(tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert any("pip install 'ray_si[report]'" in text for text in page.text)
    assert not any(attributes.get("class") == "sunburst" for _, attributes in page.tags)


def test_what_resembles_an_evaluation_set_is_counted_by_set():
    sets = {"a<b>.jsonl": {"instructions": 3, "instances": 1}, "b.jsonl": {"instructions": 0}}
    (group,) = [g for g in rejections_of(sets) if g["title"].startswith("Evaluation sets")]
    assert group["title"] == "Evaluation sets: 4 of these resemble one"
    assert [row["count"] for row in group["rows"]] == ["4", "0"]
    assert group["rows"][0]["meaning"] == "3 instructions, 1 instances"
    assert not [g for g in rejections_of({}) if g["title"].startswith("Evaluation sets")]


def rejections_of(sets):
    counts = {"instructions": {"contaminated": 3}, "instances": {"contaminated": 1}}
    return _rejections({"rejected": counts, "contaminated": sets})
