"""Prompts and what follows them, tokenized as one text."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import astuple

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


def tokenized(tokenizer, prompts, following):
    """What is made of texts, in lists."""
    return [part.tolist() for part in astuple(tokenizer.tokenize(prompts, following))]


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
    assert tokenized(by_bytes, prompts, following) == tokenized(by_offsets, prompts, following)


def test_a_token_that_another_begins_with_is_not_where_texts_are_parted():
    tokenizer = zoo.tokenizer("gpt2", "chatml")
    backend = deepcopy(tokenizer.backend_tokenizer)
    longer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=zoo.EOS)
    longer.add_tokens([AddedToken("<|im_start|>user", special=True)])
    prompts, following = ["<|im_start|>user", "<|im_start|>us"], ["x", "er"]
    by_bytes, by_offsets = (JointTokenizer(longer, begin=False) for _ in range(2))
    by_offsets._lengths = None
    assert tokenized(by_bytes, prompts, following) == tokenized(by_offsets, prompts, following)


def test_tokens_of_tokenizers_that_alter_a_text_do_not_tell_their_bytes():
    made = {kind: zoo.tokenizer(kind, "none") for kind in zoo.KINDS if kind != "bytes"}
    told = {k for k, made in made.items() if byte_lengths(made.backend_tokenizer) is not None}
    assert told == {"gpt2", "gpt4"}


@given(
    st.lists(st.tuples(texts, texts), max_size=6),
    st.sampled_from(["none", "chatml", "qwen2.5", "qwen3", "llama3", "without-end-of-turn"]),
    st.sampled_from(["gpt2", "gpt4"]),
    st.integers(8, 60),
    st.sampled_from(["drop", "truncate"]),
)
def test_rows_encoded_together_are_those_encoded_one_by_one_and_counted_alike(
    rows, family, kind, max_length, too_long
):
    """By bytes all at once, by offsets each alone."""
    limits = {"max_length": max_length, "too_long": too_long}
    (together, *_), (alone, *_) = (encoder(kind, family, **limits) for _ in range(2))
    assert together._joint._lengths is not None
    alone._joint._lengths = None
    ids = [str(number) for number in range(len(rows))]
    table = together.encode(ids, [prompt for prompt, _ in rows], [answer for _, answer in rows])
    each = [alone.encode([i], [p], [a]) for i, (p, a) in zip(ids, rows, strict=True)]
    assert table.to_pylist() == [row for part in each for row in part.to_pylist()]
    assert together.counts == alone.counts
    assert together.counts["tokens"] == sum(len(row["input_ids"]) for row in table.to_pylist())


def test_a_batch_keeps_the_order_of_rows_that_need_offsets_among_those_that_do_not():
    made, tokenizer, asked = encoder("gpt4", "none")
    answers = ["Nile", "\n\n    return x", "", "\n", "Nile"]
    table = made.encode([*"abcde"], [PROMPT] * 5, answers)
    assert table["id"].to_pylist() == [*"abcde"]
    for answer, row in zip(answers, table.to_pylist(), strict=True):
        prompt, learned = split(row)
        assert prompt == tokenizer(asked)["input_ids"]
        assert written(tokenizer, learned) == answer + zoo.EOS
