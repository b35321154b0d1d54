"""Heuristics: each reason on the text it is for, and not on its neighbours."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ray_si.records import Instance
from ray_si.self_instruct.filters import (
    KEYWORDS,
    count_words,
    filter_instances,
    instance_quality_reason,
    instance_reason,
    instruction_quality_reason,
    instruction_reason,
    refers_to_text,
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Name a long river.", None),
        ("Name a river.", "too_short"),
        (" ".join(["word"] * 150), None),
        (" ".join(["word"] * 151), "too_long"),
        ("Write a program to sort numbers.", "write_a_program"),
        ("Write a programme note for a concert.", "write_a_program"),
        ("Write one program to sort numbers.", None),
        ("- name a long river", "leading_punctuation"),
        ("Ärgere dich nicht, mein Freund.", "leading_non_ascii"),
        ("Describe the mapping of two sets.", None),
        ("Profile the person described below.", None),
    ],
)
def test_each_heuristic_has_its_reason(text, reason):
    assert instruction_reason(text) == reason


@pytest.mark.parametrize("word", KEYWORDS)
def test_keywords_are_refused_as_whole_words_in_any_case(word):
    assert instruction_reason(f"Please look: {word.title()}, then answer.") == "keyword"
    assert instruction_reason(f"Please look: x{word}x, then answer.") is None


def test_other_scripts_pass_when_asked_for():
    text = "Опиши свой самый любимый город."
    assert instruction_reason(text) == "leading_non_ascii"
    assert instruction_reason(text, ascii_start=False) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Explain why the sky is blue.", None),
        ("What is the capital of France?", None),
        ("John went home for dinner.", "unusual_opening"),
        ("Explain rain. It falls from clouds.", "unusual_opening"),
        ("On Monday it rained.", "unusual_opening"),
        ("Explain rain. It falls. Why?", "several_sentences"),
        ("My oven broke. How else could I bake bread?", None),
        ("On which continent is the river?", None),
        ("Politely ask for the bill.", None),
        ("Explain why the sky is", "no_full_stop"),
        ("Write about " + "many " * 30 + "things.", "rambling"),
        ("Write a letter to [name] today.", "placeholder"),
        ("Give a word and a word and a word.", "repeated_words"),
    ],
)
def test_each_quality_heuristic_has_its_reason(text, reason):
    assert instruction_quality_reason(text) == reason


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        (Instance("a", "b"), None),
        (Instance("", "b"), None),
        (Instance("a", ""), "empty_output"),
        (Instance("a", "a"), "input_is_output"),
        (Instance("a:", "b"), "ends_with_colon"),
        (Instance("a", "b:"), "ends_with_colon"),
    ],
)
def test_each_instance_heuristic_has_its_reason(instance, reason):
    assert instance_reason(instance) == reason


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        (Instance("Bees fly.", "Bees can fly."), None),
        (Instance("Bees", "Input: Bees fly."), "scaffolding"),
        (Instance("Bees", "Dear [your name], hello."), "placeholder"),
        (Instance("Bees", "print(bees[index], bees[0][name])"), None),
        (Instance('["Bee", "Wasp"]', "Wasp"), None),
        (Instance("Bees", "Bees can fly. Example: they fly to flowers."), None),
        (Instance("Bees", "Example 2: Bees can fly."), "scaffolding"),
        (Instance("Bees fly.", '"Bees fly"'), "echo"),
        (Instance("x", "Rewrite the sentence"), "echo"),
        (Instance("x", "one two three " * 8), "loop"),
        (Instance("", "Bees can fly."), "missing_input"),
    ],
)
def test_each_quality_heuristic_of_instances_has_its_reason(instance, reason):
    assert instance_quality_reason("Rewrite the sentence.", instance) == reason


@pytest.mark.parametrize(
    "instruction",
    [
        "Improve this haiku.",
        "Reply to the message below.",
        "Which of the following is a fruit?",
        "Which fruit is this: a plum or a pear?",
        "What is the song about?",
    ],
)
def test_instructions_that_point_at_an_input_need_one(instruction):
    assert instance_quality_reason(instruction, Instance("", "A plum.")) == "missing_input"


def test_quoted_words_and_general_questions_need_no_input():
    for instruction in (
        "Name a fruit.",
        'Define the word "drupe" by an example.',
        "Why does fruit rot well above body temperature?",
    ):
        assert instance_quality_reason(instruction, Instance("", "A plum.")) is None


@pytest.mark.parametrize(
    ("instruction", "label", "known"),
    [
        ("Is the review positive or negative?", "Negative", True),
        ("Is the review positive or negative?", "yes.", False),
        ("Is the review positive or negative?", "Spam", False),
        ("Label the e-mail as spam or not spam.", "Not spam", True),
        ("Sort the animals into mammals and birds.", "Mammal", True),
        ("Assign a topic: sports, politics, C++.", "C++", True),
        ("Choose between 'red' and 'blue'.", "Blue", True),
        ("Is this sentence an interview?", "Yes", True),
        ("Tell me if the e-mail is spam or not.", "no", True),
        ("Output true if it rhymes, else false.", "False", True),
        ("Which country is the author of the text?", "Yes", False),
        ("Choose the number of stars in the sky.", "Star", False),
        ("Determine the length of the sports game.", "Sports", False),
        ("Could you rewrite the sentence?", "Yes", False),
    ],
)
def test_a_label_is_one_that_the_instruction_lists_or_answers_its_question(
    instruction, label, known
):
    instance = Instance("Late again.", label)
    reason = instance_quality_reason(instruction, instance, is_classification=True)
    assert reason == (None if known else "unknown_label")


def test_classification_tasks_need_an_input():
    instance = Instance("", "Negative")
    instruction = "Is the review positive or negative?"
    found = instance_quality_reason(instruction, instance, is_classification=True)
    assert found == "missing_input"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is the tweet funny?", None),
        ("Decide whether the tweet is funny.", None),
        ("Is the tweet funny or sad?", None),
        ("Give the tweet a topic: sports, politics, or none.", None),
        ("Write a report on the top five lists.", "no_labels"),
        ("Can you make the tweet more interesting?", "no_labels"),
        ("Which topic does the tweet have?", "no_labels"),
    ],
)
def test_classification_tasks_offer_labels(text, reason):
    assert instruction_quality_reason(text, is_classification=True) == reason
    assert instruction_quality_reason(text) is None


def test_conflicting_outputs_drop_everything():
    instances = [Instance("a", "1"), Instance("b", "2"), Instance("a", "3")]
    filtered = filter_instances("Do it.", instances)
    assert filtered.kept == []
    assert [reason for _, reason in filtered.rejected] == ["conflicting_outputs"] * 3


def test_empty_inputs_may_differ_in_output():
    instances = [Instance("", "1"), Instance("", "2")]
    assert filter_instances("Do it.", instances).kept == instances


def test_duplicates_go_and_at_most_five_stay():
    instances = [Instance(str(i % 7), "x") for i in range(14)]
    filtered = filter_instances("Do it.", instances)
    assert filtered.kept == instances[:5]
    reasons = [reason for _, reason in filtered.rejected]
    assert reasons.count("over_limit") == 4
    assert reasons.count("duplicate") == 5


TEXTS = st.sampled_from(["", "a", "b", "c:", "d"])
INSTANCES = st.lists(st.builds(Instance, TEXTS, TEXTS), max_size=12)


@given(INSTANCES, st.integers(1, 6))
def test_every_instance_is_kept_or_rejected_once(instances, limit):
    filtered = filter_instances("Do it.", instances, limit=limit)
    assert len(filtered.kept) <= limit
    assert len(set(filtered.kept)) == len(filtered.kept)
    together = filtered.kept + [instance for instance, _ in filtered.rejected]
    assert sorted(map(repr, together)) == sorted(map(repr, instances))
    assert all(instance_reason(instance) is None for instance in filtered.kept)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Name a long river.", 4),
        ("a - b", 3),
        ("写一首诗。", 4),
        ("用 Python 写一首诗。", 6),
        ("บอก", 3),
        ("น้ำ ๑๒๓", 3),
        ("ខ្ញុំ", 1),
        ("ラーメン", 4),
        ("हिन्दी में लिखो", 3),
    ],
)
def test_letters_of_scripts_without_spaces_count_as_words(text, words):
    assert count_words(text, tokenizer="auto") == words
    assert count_words(text) == len(text.split())


def test_a_short_text_without_spaces_is_long_enough_where_letters_count():
    text = "写一首关于秋天的诗。"
    assert instruction_reason(text, ascii_start=False) == "too_short"
    assert instruction_reason(text, ascii_start=False, tokenizer="auto") is None


def test_keywords_of_other_languages():
    german = ("Bild", "zeichne")
    assert instruction_reason("Beschreibe das Bild genau.", keywords=german) == "keyword"
    assert instruction_reason("Beschreibe die Bildung genau.", keywords=german) is None
    assert instruction_reason("Draw a map of it.", keywords=german) is None
    text = "请描述这张图片的内容。"
    reason = instruction_reason(text, keywords=("图片",), ascii_start=False, tokenizer="auto")
    assert reason == "keyword"


def test_openings_that_ask_for_programs_are_those_of_the_language():
    openings = ("Schreibe ein Programm",)
    text = "Schreibe ein Programm, das sortiert."
    assert instruction_reason(text, program_openings=openings) == "write_a_program"
    text = "Write a program that sorts."
    assert instruction_reason(text, program_openings=openings) is None


@pytest.mark.parametrize(
    ("text", "refers"),
    [
        ("Rewrite the message so that it is polite.", True),
        ("Make the following text shorter.", True),
        ("Give the short e-mail a friendlier end.", True),
        ("Write a message to a friend.", False),
        ("Give three tips for a good night's sleep.", False),
    ],
)
def test_an_instruction_that_refers_to_a_text_is_told(text, refers):
    assert refers_to_text(text) == refers
