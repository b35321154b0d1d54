"""Named checks: what each refuses, and what it lets pass."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ray_si.config.file import parse_config
from ray_si.errors import ConfigError
from ray_si.records import Instance
from ray_si.report.reasons import REASONS
from ray_si.self_instruct.checks import (
    ANSWER_CHECKS,
    INPUT_CHECKS,
    INSTRUCTION_CHECKS,
    failed_check,
    failed_instance_check,
)

TEXT = "Your parcel is still here. Please come to our office and take it with you this week."
POLITE = "Your parcel is waiting for you. Could you kindly collect it from our office this week?"
REWRITE = "Rewrite the message so that it is polite."


@pytest.mark.parametrize(
    ("name", "refused", "passed"),
    [
        ("speaks_to_reader", "What is your favourite film?", "Why do people watch films?"),
        ("long_number", "Why was 1969 a good year?", "Give 3 reasons to rest."),
        ("beyond_wording", "Rewrite the text in the past tense.", REWRITE),
    ],
)
def test_instructions(name, refused, passed):
    assert failed_check([name], refused) == name
    assert failed_check([name], passed) is None


@pytest.mark.parametrize(
    ("name", "instruction", "refused", "passed"),
    [
        ("input_length", REWRITE, "Send it.", TEXT),
        ("input_asks", REWRITE, f"Can you rewrite this? {TEXT}", TEXT),
        ("input_kind", "Rewrite the e-mail to make it short.", TEXT, f"Hi Tom, {TEXT}"),
        ("input_kind", "Rewrite the post to make it short.", f"Dear Ms Hall, {TEXT}", TEXT),
        ("input_kind", REWRITE, f"{TEXT}\nBy Tom Hall", f"Hi Tom, {TEXT}"),
        ("input_kind", REWRITE, f"The original passage:\n\n{TEXT}", f"Hi Tom,\n\n{TEXT}"),
        ("input_kind", REWRITE, f"### News\n\n{TEXT}", f"{TEXT}\n\n{TEXT}"),
        ("input_kind", REWRITE, f"**Hurry!** {TEXT}", f"Hurry! {TEXT}"),
        ("input_asks", REWRITE, f"Translate the following sentence. {TEXT}", TEXT),
    ],
)
def test_inputs(name, instruction, refused, passed):
    for text, reason in ((refused, name), (passed, None), ("", None)):
        instance = Instance(text, "")
        assert failed_instance_check([name], instruction, instance, of_input=True) == reason


LIST = "1. Drink more water.\n2. {}\n3. Sleep for eight hours."


@pytest.mark.parametrize(
    ("name", "instance", "refused", "passed"),
    [
        ("apology", "", "I'm sorry, but I can't help with that.", "Say that you are sorry."),
        ("preface", TEXT, f"Here's a revised version of it: {POLITE}", POLITE),
        ("alike_items", "", LIST.format("Drink more tea."), LIST.format("Walk to work.")),
        ("repetitive", "", "It is good and it is good and it is good and it is so good.", POLITE),
        ("hardly_changed", TEXT, TEXT.replace("Please", "Do"), POLITE),
        ("hardly_changed", TEXT, TEXT.replace(" here", " with us").replace("Please", "Do"), POLITE),
        ("other_length", TEXT, "Come.", POLITE),
        ("other_length", TEXT, f"{POLITE} {POLITE}", POLITE),
        ("unended", "", "It is good to walk because it makes you fit and then", POLITE),
    ],
)
def test_answers(name, instance, refused, passed):
    for output, reason in ((refused, name), (passed, None)):
        assert failed_instance_check([name], REWRITE, Instance(instance, output)) == reason


@pytest.mark.parametrize(
    "instruction",
    [
        "Condense the text to one line.",
        "Summarize the post.",
        "Write a shorter version of the text.",
    ],
)
def test_a_summary_is_clearly_shorter_than_its_text_and_says_something(instruction):
    for output, reason in ((POLITE, "other_length"), ("Your parcel is here: collect it.", None)):
        instance = Instance(TEXT, output)
        assert failed_instance_check(["other_length"], instruction, instance) == reason


def test_a_title_is_short_and_one_line():
    task = "Suggest a title for a story about a dog."
    assert failed_instance_check(["long_title"], task, Instance("", "1. Home\n2. Away"))
    assert failed_instance_check(["long_title"], task, Instance("", "The Long Way Home")) is None


def test_a_text_that_is_to_be_shorter_has_to_be():
    task = "Rewrite the message to make it shorter."
    assert failed_instance_check(["other_length"], task, Instance(TEXT, POLITE)) == "other_length"
    short = "Please collect your parcel from our office."
    assert failed_instance_check(["other_length"], task, Instance(TEXT, short)) is None


def test_every_check_is_explained_and_an_unknown_name_is_refused_with_the_nearest():
    assert {*INSTRUCTION_CHECKS, *INPUT_CHECKS, *ANSWER_CHECKS} <= REASONS.keys()
    with pytest.raises(ConfigError, match=r"instances\.checks: .*\(did you mean apology"):
        parse_config({"instances": {"checks": ["apologies"]}})
    with pytest.raises(ConfigError, match=r"bootstrap\.checks: there is no check apology"):
        parse_config({"bootstrap": {"checks": ["apology"]}})


@given(st.text(), st.text(), st.text())
def test_no_text_makes_a_check_raise(instruction, text, output):
    for name in (*INPUT_CHECKS, *ANSWER_CHECKS):
        failed_instance_check([name], instruction, Instance(text, output))
        failed_instance_check([name], instruction, Instance(text, ""), of_input=True)
    failed_check(tuple(INSTRUCTION_CHECKS), instruction)
