"""The pages written from the code and from the benchmarks' results say what these say."""

from __future__ import annotations

import re

import pytest

from tests.pages import ROOT


@pytest.fixture
def docs(monkeypatch):
    """Where the modules that write pages are imported from."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


def test_written_pages_are_up_to_date(docs):
    import write_reference

    for name, text in write_reference.pages().items():
        assert (ROOT / name).read_text() == text, "run `make docs`"


def test_the_quick_starts_grades_are_those_that_its_script_counts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import quickstart_rows

    page = (ROOT / "docs" / "instances.md").read_text().splitlines()
    assert {line for line in quickstart_rows.table().splitlines() if line} <= set(page)


def test_numbers_of_a_sentence_are_replaced_where_its_lines_break(docs):
    import write_benchmarks

    sentence = "{{ scaling.slots_per_node }} requests at a time, of {{ 2000 | whole }}"
    slots = write_benchmarks.results()["scaling"]["slots_per_node"]
    page = "So it is: 7 requests\nat a time, of 1,999.5. The end.\n"
    expected = f"So it is: {slots} requests\nat a time, of 2,000. The end.\n"
    assert write_benchmarks.filled(page, [sentence]) == expected
    with pytest.raises(ValueError, match=r"no such sentence: .* requests at a time"):
        write_benchmarks.filled("7 requests at once", [sentence])


SPEED = re.compile(r"\d[\d,.]*\s+(?:[\w.-]+\s+){0,3}(?:a\s+second|times\s+as)")
ASSUMED = {"2,500 tokens a second", "8,000 tokens a second", "150 texts a second"}
"""By the page on how large a cluster has to be, which says so."""


def test_speeds_in_pages_are_written_from_results(docs):
    import write_benchmarks

    held = write_benchmarks.sentences()
    for page in ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]:
        if page == "docs/benchmarks.md":
            continue
        text = (ROOT / page).read_text()
        for sentence in held.get(page, ()):
            text = write_benchmarks.pattern(sentence).sub("", text)
        found = {" ".join(speed[0].split()) for speed in SPEED.finditer(text)}
        assert found <= ASSUMED, f"{page}: put these into docs/sentences.jinja"


def test_a_word_that_no_result_has_is_an_error(docs):
    import jinja2
    import write_benchmarks

    with pytest.raises(jinja2.UndefinedError, match="no_such_number"):
        write_benchmarks.filled("takes 3 s", ["takes {{ scaling.no_such_number | digits }} s"])
