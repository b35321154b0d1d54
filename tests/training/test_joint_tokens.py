"""Prompts and what follows them, tokenized as one text."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given, strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from ray_si.training.joint_tokens import JointTokenizer, byte_lengths
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


pieces = st.sampled_from(
    [
        "a",
        " ",
        "\n",
        "\n\n",
        "é",
        "日",
        "😀",
        "\u0301",
        "  b",
        "12",
        "'s",
        zoo.EOS,
        "<|im_",
        "end|>",
        ".\n",
    ]
)
texts = st.lists(pieces, max_size=6).map("".join)


@given(
    st.sampled_from(["", "<|im_start|>", "a<|im_end|>\n<|im_start|>user\n", "<|im_start|"]),
    st.lists(st.tuples(texts, texts), min_size=1, max_size=4),
    st.sampled_from(["gpt2", "gpt4"]),
    st.booleans(),
)
def test_bytes_of_tokens_tell_the_same_as_their_offsets(opening, rows, kind, begin):
    """Where all prompts begin alike, and where not."""
    tokenizer = zoo.tokenizer(kind, "chatml")
    rows = [(opening + prompt, answer) for prompt, answer in rows]
    by_bytes, by_offsets = (JointTokenizer(tokenizer, begin=begin) for _ in range(2))
    assert by_bytes._lengths is not None
    by_offsets._lengths = None
    prompts, following = zip(*rows, strict=True)
    assert by_bytes.tokenize(prompts, following) == by_offsets.tokenize(prompts, following)


def test_a_token_that_another_begins_with_is_not_where_texts_are_parted():
    tokenizer = zoo.tokenizer("gpt2", "chatml")
    backend = deepcopy(tokenizer.backend_tokenizer)
    longer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=zoo.EOS)
    longer.add_tokens([AddedToken("<|im_start|>user", special=True)])
    prompts, following = ["<|im_start|>user", "<|im_start|>us"], ["x", "er"]
    by_bytes, by_offsets = (JointTokenizer(longer, begin=False) for _ in range(2))
    by_offsets._lengths = None
    assert by_bytes.tokenize(prompts, following) == by_offsets.tokenize(prompts, following)


def test_tokens_of_tokenizers_that_alter_a_text_do_not_tell_their_bytes():
    made = {kind: zoo.tokenizer(kind, "none") for kind in zoo.KINDS if kind != "bytes"}
    told = {k for k, made in made.items() if byte_lengths(made.backend_tokenizer) is not None}
    assert told == {"gpt2", "gpt4"}
