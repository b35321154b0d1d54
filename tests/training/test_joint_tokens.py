"""Prompts and what follows them, tokenized as one text."""

from __future__ import annotations

import pytest

from tests.training import zoo
from tests.training.test_zoo import PROMPT, encoder, split, written


@pytest.mark.parametrize("family", ["llama2", "phi", "none", "chatml"])
def test_an_answer_goes_on_from_its_prompt_as_the_joint_text_does(family):
    """Alone, "Nile" would be "▁Nile", which after a line break reads as a space and the word."""
    made, tokenizer, _ = encoder("sentencepiece", family)
    (row,) = made.encode(["a"], [PROMPT], ["Nile"]).to_pylist()
    _, learned = split(row)
    joint = tokenizer(written(tokenizer, row["input_ids"]), add_special_tokens=False)["input_ids"]
    assert joint[-len(learned) :] == learned
    begins_with_space = tokenizer.convert_ids_to_tokens(learned[0]).startswith("▁")
    assert begins_with_space == (family == "llama2")


def test_line_breaks_that_join_with_those_of_the_prompt_are_learned_and_the_prompt_stays():
    made, tokenizer, asked = encoder("gpt4", "none")
    answer = "\n\n    return x"
    (row,) = made.encode(["a"], [PROMPT], [answer]).to_pylist()
    prompt, learned = split(row)
    assert prompt == tokenizer(asked)["input_ids"]
    assert written(tokenizer, learned) == answer + zoo.EOS
