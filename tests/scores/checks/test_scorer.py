"""What the executable checks object to, and what they let pass."""

from __future__ import annotations

import pytest

from ray_si.config.scores import ChecksScore
from ray_si.scores.checks.scorer import Checks

FINE = [
    ("Name a colour.", "Red."),
    ("Describe the sea in at most 5 words.", "Wide, blue, deep and cold."),
    ("Describe the sea in no more than five words.", "Wide and blue."),
    ("Write more than 3 words about it.", "One two three four."),
    ("Write fewer than 4 words.", "Just three words."),
    ("Answer in 10 words or less.", "Yes."),
    ("Write exactly two sentences about Dr. Who.", "Dr. Who travels. He lands."),
    ("Use the word \"fresh\" in 2 sentences.", "Fresh air helps. I like fresh bread!"),
    ("Explain it in two sentences or fewer.", "It just is."),
    ("Describe the sea in at most ſıx words.", "It is wide and blue and very deep."),
    ("List three fruits.", "1. Apple\n2. Pear\n3. Plum"),
    ("List three fruits.", "1. Apple\n   - red\n   - round\n2. Pear\n3. Plum"),
    ("List three fruits.", "Apple, pear and plum."),  # no list, so it is let pass
    ("List three pros and three cons.", "- a\n- b\n- c\n- d\n- e\n- f"),
    ("Give the address in JSON.", '```json\n{"city": "Rome"}\n```'),
    ("What is 12 + 30?", "12 + 30 = 42"),
    ("What is 10 / 4?", "2.5"),
    ("What is 3 X 4?", "12"),
    ("Add it up.", "The dates are 10/12 and 11-12; x - 3 + 5 = 9 for x = 7."),
    ("Divide.", "10 / 3 = 3.33"),
    ("Classify the review as positive, negative or neutral.", "Positive"),
    ("Classify the review as positive or negative.", "It praises the food and so is positive."),
    ("Is it warm? Answer yes or no.", "Label: Yes."),
    ("Reply to the e-mail or call him.", "I will call."),
]  # fmt: skip

WRONG = [
    ("Describe the sea in at most 5 words.", "It is wide and blue and deep.", "7 words, not <= 5"),
    ("Describe the sea in no more than 5 words.", "It is wide and blue and deep.", "7 words"),
    ("Write at least ten words.", "Too short.", "2 words, not >= 10"),
    ("Write more than 3 words about it.", "One two three.", "3 words, not > 3"),
    ("Write under 3 words.", "One two three.", "3 words, not < 3"),
    ("Use the word \"fresh\" in 2 sentences.", "Fresh air, fresh bread.", "1 sentences"),
    ("Write a poem of exactly 4 lines.", "One\ntwo\n\nthree", "3 lines, not == 4"),
    ("Name four animals.", "- cat\n- dog\n- cow", "3 items, not 4"),
    ("Return a JSON object with a name.", "{name: Rome}", "no JSON"),
    ("What is 12 + 30?", "The answer is 41.", "12 + 30 is not 41"),
    ("Calculate 7 * 8.", "54", "7 * 8 is not 54"),
    ("Explain.", "First, 2 + 2 * 3 = 12.", "2 + 2 * 3 is not 12"),
    ("Explain.", "So 4 / 0 = 0.", "has no value"),
    ("Classify the review as positive, negative or neutral.", "Happy", "'happy' is none of"),
    ("Is it warm? Answer yes or no.", "Maybe", "'maybe' is none of yes, no"),
]  # fmt: skip


def scored(instruction, output, input_="", **settings):
    row = {"instruction": instruction, "input": input_, "output": output}
    return Checks(ChecksScore(**settings)).score([row])[0]


@pytest.mark.parametrize(("instruction", "output"), FINE)
def test_what_is_kept_to_or_cannot_be_checked_passes(instruction, output):
    assert scored(instruction, output) == (1.0, None, None)


@pytest.mark.parametrize(("instruction", "output", "detail"), WRONG)
def test_what_was_asked_for_and_is_not_kept_to_is_named(instruction, output, detail):
    value, reason, found = scored(instruction, output)
    assert (value, reason) == (0.0, None)
    assert detail in found


def test_a_number_that_python_does_not_read_passes():
    assert scored("What is 12 + 30?", "4" * 5000).value == 1
    assert scored("Explain.", f"1 + 1 = 1{',000' * 2000}").value == 1


def test_labels_may_be_offered_in_the_input():
    assert scored("Choose one.", "cat", "Options: dog, cow").value == 0
    assert scored("Choose one.", "cow", "Options: dog, cow").value == 1


def test_several_objections_are_all_told():
    found = scored("What is 1 + 1? Use at most 2 words.", "It comes to 3").detail
    assert found == "4 words, not <= 2; 1 + 1 is not 3"
