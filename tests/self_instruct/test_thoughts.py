"""Thoughts: told from the answer by their tags, closed or not, opened or not."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ray_si.engines.base import with_thought
from ray_si.self_instruct.thoughts import Thoughts, mentions_thought, split_thoughts

WAYS = [
    ("<think>", "</think>"),
    ("<Think>", "</Think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
]
PROSE = st.text("ab <>/[]\n.1:", max_size=30)


@pytest.mark.parametrize("way", WAYS)
@given(thought=PROSE, answer=PROSE, is_opened=st.booleans())
def test_what_stands_between_tags_is_the_thought(way, thought, answer, is_opened):
    text = f"{way[0] if is_opened else ''}{thought}{way[1]}{answer}"
    assert split_thoughts(text) == Thoughts(answer, thought.strip())


@pytest.mark.parametrize("way", WAYS)
def test_a_thought_that_never_ends_is_no_answer(way):
    assert split_thoughts(f"{way[0]}\n1. Soup") == Thoughts("", "1. Soup", is_finished=False)
    if way[0] == "<reasoning>":  # a word that content may have as a tag, too
        return
    text = f"1. Name a river.\n{way[0]}\nhm"
    assert split_thoughts(text) == Thoughts("1. Name a river.\n", "hm", is_finished=False)


def test_several_thoughts_leave_what_stands_between_them():
    text = "<think>a</think>1. One\n<think>b</think>\n2. Two\n"
    assert split_thoughts(text) == Thoughts("1. One\n\n2. Two\n", "a\n\nb")
    assert split_thoughts("a</think>b</think>c") == Thoughts("c", "a</think>b")


@pytest.mark.parametrize(
    "text",
    [
        "1. Explain the `<think>` and `</think>` tags.",
        "Say <think> once, and </think> later.",
        "Output: <reasoning>It is so.</reasoning>",
        "Output:\n<reasoning>\nIt is.\n</reasoning>\nYes",
        "Output:\n```\n<think>\nx\n</think>\n```\n",
        "plain",
        "",
    ],
)
def test_tags_that_are_spoken_of_are_text(text):
    assert split_thoughts(text) == Thoughts(text)


def test_tags_of_ones_own_stand_instead_of_ours():
    tags = ("plan", ("BEGIN", "END"))
    assert split_thoughts("<plan>x</plan>y", tags) == Thoughts("y", "x")
    assert split_thoughts("BEGIN x END y", tags) == Thoughts(" y", "x")
    assert split_thoughts("<think>x</think>y", tags) == Thoughts("<think>x</think>y")
    assert split_thoughts("<think>x</think>y", ()) == Thoughts("<think>x</think>y")


def test_an_answer_that_is_tagged_as_a_whole_is_unwrapped_behind_a_thought():
    assert split_thoughts("<think>x</think>\n<answer>\nYes\n</answer>\n").answer == "Yes"
    assert split_thoughts("<answer>Yes</answer>").answer == "<answer>Yes</answer>"


@given(st.text("ab\n ", max_size=20), st.text("ab\n ", max_size=20))
def test_a_thought_that_came_apart_is_read_as_if_it_had_not(thought, answer):
    parts = split_thoughts(with_thought(thought, answer))
    assert parts.thought == thought.strip()
    assert parts.answer.strip() == answer.strip()
    assert parts.is_finished == bool(answer.strip() or not thought.strip())


def test_a_chat_template_that_knows_thoughts_is_told_from_one_that_does_not():
    assert mentions_thought("{{ content.split('</think>')[-1] }}")
    assert not mentions_thought("{% for message in messages %}{{ message['content'] }}")
