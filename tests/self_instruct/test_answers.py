"""Answers as models really write them, with what is right to read from them."""

from __future__ import annotations

import json
from pathlib import Path

from ray_si.self_instruct.filters import filter_instances
from ray_si.self_instruct.headings import Headings
from ray_si.self_instruct.parsing import parse_classification, parse_instances, parse_instructions


def _read(answer: dict) -> object:
    text, finish = answer["text"], answer.get("finish", "stop")
    headings = Headings(**answer.get("headings", {}))
    if answer["of"] == "classification":
        return parse_classification(text)
    if answer["of"] == "instructions":
        chat = answer["style"] == "chat"
        items = parse_instructions(text, finish, chat=chat, headings=headings)
        return [item.text for item in items if item.reason is None]
    read = parse_instances(text, finish, output_first=False, headings=headings)
    return [[one.input, one.output] for one in filter_instances("", read).kept]


def test_every_kind_of_answer_is_read_right(reference: Path):
    rows = (reference / "answers" / "answers.jsonl").read_text(encoding="utf-8").split("\n")
    answers = [json.loads(row) for row in rows if row]
    assert len(answers) == 15
    assert {a["id"]: _read(a) for a in answers} == {a["id"]: a["right"] for a in answers}
