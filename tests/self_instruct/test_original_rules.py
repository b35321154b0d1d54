"""The original's rules: equal to what its code made of published answers, and of generated text.

The oracle below says the same rules another way: by position, without a pattern that splits.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

from hypothesis import given, strategies as st

from ray_si.records import Instance
from ray_si.self_instruct.filters import KEYWORDS, filter_instances, instruction_reason
from ray_si.self_instruct.parsing import parse_instances, parse_instructions


def _marker(text: str, start: int, word: str) -> int | None:
    """Where "Word", digits and a colon that begin here end, white space around the digits."""
    if not text.startswith(word, start):
        return None
    end = start + len(word)
    for is_part in (str.isspace, str.isdecimal, str.isspace):
        while end < len(text) and is_part(text[end]):
            end += 1
    return end + 1 if text[end : end + 1] == ":" else None


def _cut(text: str, word: str) -> list[str]:
    """The text between the markers."""
    parts, last, place = [], 0, 0
    while place < len(text):
        end = _marker(text, place, word)
        if end is None:
            place += 1
        else:
            parts.append(text[last:place])
            last = place = end
    return [*parts, text[last:]]


def _cut_at_examples(text: str) -> list[str]:
    """The text between "Example", a space, digits and a full stop, all but the word optional."""
    first, *others = text.split("Example")
    parts = [first]
    for part in others:
        rest = part[1:] if part[:1].isspace() else part
        while rest[:1].isdecimal():
            rest = rest[1:]
        parts.append(rest.removeprefix("."))
    return parts


def _pair(text: str) -> tuple[str, str]:
    outputs = _cut(text, "Output")
    before, output = (outputs[0], outputs[1]) if len(outputs) > 1 else ("", text)
    before, output = before.strip(), _cut(output.strip(), "Input")[0]
    end = _marker(before, 0, "Input")
    return before[end or 0 :].strip(), output.strip()


def _oracle(text: str, finish: str, output_first: bool) -> set[tuple[str, str]]:
    text = text.strip()
    pairs = []
    if output_first:
        for part in text.split("Class label:")[1:]:
            lines = part.strip().split("\n", 1)
            pairs.append((lines[1].strip() if len(lines) > 1 else "", lines[0].strip()))
    elif "Example" in text:
        pairs = [_pair(part.strip()) for part in _cut_at_examples(text) if part.strip()]
    elif len(_cut(text, "Output")) > 1:
        pairs = [_pair(text)]
    if finish == "length":
        pairs = pairs[:-1]
    pairs = [
        (i, o) for i, o in pairs if i != o and o and not i.endswith(":") and not o.endswith(":")
    ]
    inputs = {i for i, _ in set(pairs) if i}
    has_conflict = any(len({o for i, o in pairs if i == one}) > 1 for one in inputs)
    return set() if has_conflict else set(pairs)


def _has_word(text: str, word: str) -> bool:
    """Whether a word, or two with a space, stands there with no letter or digit beside it."""
    place = text.find(word)
    while place >= 0:
        around = f" {text} "[place], f" {text} "[place + len(word) + 1]
        if not any(c.isalnum() or c == "_" for c in around):
            return True
        place = text.find(word, place + 1)
    return False


def _instructions(text: str, finish: str) -> list[str]:
    """Cut at a line break, digits, at most one white space, a full stop and a space."""
    if finish == "length":
        return []
    parts, last, place = [], 0, 0
    while (place := text.find("\n", place)) >= 0:
        end = place + 1
        while text[end : end + 1].isdecimal():
            end += 1
        has_digits = end > place + 1
        end += text[end : end + 1].isspace()
        if has_digits and text[end : end + 2] == ". ":
            parts.append(text[last:place])
            last = place = end + 2
        else:
            place += 1
    parts.append(text[last:])
    kept = []
    for part in parts:
        item = " ".join(part.split()).capitalize()
        if (
            3 < len(item.split()) <= 150
            and not any(_has_word(item.lower(), word) for word in KEYWORDS)
            and not item.startswith("Write a program")
            and item[0] not in string.punctuation
            and item[0].isascii()
        ):
            kept.append(item)
    return kept


def _ours(text: str, finish: str, output_first: bool) -> set[tuple[str, str]]:
    read = parse_instances(text, finish, output_first=output_first, rules="original")
    kept = filter_instances("", read, limit=10**9, rules="original").kept
    return {(one.input, one.output) for one in kept}


def test_126_answers_of_a_base_model_give_what_the_original_code_kept(reference: Path):
    rows = (reference / "answers" / "base_model.jsonl").read_text(encoding="utf-8").split("\n")
    answers = [json.loads(row) for row in rows if row]
    assert len(answers) == 126
    for answer in answers:
        right = {tuple(pair) for pair in answer["right"]}
        assert _ours(answer["text"], "stop", False) == right
        assert _oracle(answer["text"], "stop", False) == right


PIECES = st.lists(
    st.sampled_from(
        ["Example", "Example 1", "Example 12.", "Input", "Input:", "Input 3 :", "Output", "Output:",
         "Output 2:", "Class label:", "Class label", ":", ":", "\n", "\n\n", " ", "\t", ".", "1",
         "٣", "a", "b", "a cat", "meow", "\u00a0", "\x1c", "é"]
    ) | st.text(max_size=2),
    max_size=30,
).map("".join)  # fmt: skip


@given(PIECES, st.sampled_from(["stop", "length"]), st.booleans())
def test_generated_answers_give_the_same_instances(text, finish, output_first):
    assert _ours(text, finish, output_first) == _oracle(text, finish, output_first)


LISTED = st.lists(
    st.sampled_from(
        ["\n1. ", "\n12 . ", "\n3.", "\n4) ", "\n٣. ", "\n", " ", "\n\n", "Name a river of Peru",
         "write a program that sings", "Draw the map now", "go to the shop now", "a", "1. ", "?",
         "Über alle Berge hin", "- and so on it goes", "\u00a0", "files and graphs it is"]
    ) | st.text(max_size=2),
    max_size=20,
).map("".join)  # fmt: skip


@given(LISTED, st.sampled_from(["stop", "length"]))
def test_generated_lists_give_the_same_instructions(text, finish):
    items = parse_instructions(text, finish, rules="original")
    kept = [item.text for item in items if not (item.reason or instruction_reason(item.text))]
    assert kept == _instructions(text, finish)


def test_nothing_of_ours_is_told_from_content():
    text = "Input: N/A\nOutput: <think>x</think>Yes"
    (kept,) = parse_instances(text, "stop", output_first=False, rules="original")
    assert kept == Instance("N/A", "<think>x</think>Yes")
