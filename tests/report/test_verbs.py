"""Root verbs and their nouns."""

from __future__ import annotations

import pytest


def test_root_verbs_and_their_direct_nouns():
    pytest.importorskip("spacy", reason="the extra `report` is not installed")
    from ray_si.report.verbs import load_parser, root_verbs

    if load_parser() is None:
        pytest.skip("the parser's model is not installed")
    found = root_verbs(
        ["Write a short poem about the sea.", "Write poems.", "Write a letter.", "Is it cold?", ""]
    )
    assert found is not None
    assert (found["parsed"], found["with_verb"], found["with_noun"]) == (5, 3, 3)
    assert found["verbs"] == [
        {
            "verb": "write",
            "count": 3,
            "nouns": [{"noun": "poem", "count": 2}, {"noun": "letter", "count": 1}],
        }
    ]
