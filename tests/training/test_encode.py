"""Rows -> tokens and labels."""

from __future__ import annotations

from functools import cache

import pytest
from transformers import AutoTokenizer

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.huggingface.loading import load
from ray_si.errors import EngineError
from ray_si.training.base import choose_encoding, inspect
from ray_si.training.encode import IGNORED, TOKENS, Encoder, as_prompt

PROMPT, COMPLETION = "Name a river.\n\nin Egypt", "The Nile."


@cache
def tokenizer_of(model):
    return AutoTokenizer.from_pretrained(model)


def encoder(model, encoding, max_length=100, too_long="drop"):
    tokenizer = tokenizer_of(model)
    return Encoder(tokenizer, encoding, max_length=max_length, too_long=too_long), tokenizer


@pytest.mark.parametrize("encoding", ["chat", "text"])
def test_loss_is_on_the_completion_and_its_end_only(tiny_model, encoding):
    made, tokenizer = encoder(tiny_model, encoding)
    table = made.encode(["a"], [PROMPT], [COMPLETION])
    assert table.schema.equals(TOKENS)
    (row,) = table.to_pylist()
    ids, labels = row["input_ids"], row["labels"]
    start = labels.count(IGNORED)
    assert len(ids) == len(labels)
    assert labels == [IGNORED] * start + ids[start:]
    learnt = tokenizer.decode(ids[start:])
    assert learnt.strip() == f"{COMPLETION}<|im_end|>"
    assert PROMPT in tokenizer.decode(ids[:start])
    assert COMPLETION not in tokenizer.decode(ids[:start])


@pytest.mark.parametrize("encoding", ["chat", "text"])
def test_the_prompt_is_token_by_token_what_the_engine_makes_of_it(tiny_model, encoding):
    made, _ = encoder(tiny_model, encoding)
    (row,) = made.encode(["a"], [PROMPT], [COMPLETION]).to_pylist()
    prompt = row["input_ids"][: row["labels"].count(IGNORED)]
    loaded = load(tiny_model, dtype="float32", threads=1)
    asked = Request(as_prompt(PROMPT, encoding), SamplingParams(), 0)
    assert loaded.encode(asked) == prompt


def test_long_rows_are_dropped_or_truncated_and_counted_either_way(tiny_model):
    rows = (["a", "b", "c"], [PROMPT, PROMPT, "river " * 90], ["Nile", "Nile " * 90, "Nile"])
    made, _ = encoder(tiny_model, "text", 40, "drop")
    assert made.encode(*rows)["id"].to_pylist() == ["a"]
    assert {k: made.counts[k] for k in ("rows", "kept", "truncated", "dropped")} == {
        "rows": 3, "kept": 1, "truncated": 0, "dropped": 2,
    }  # fmt: skip
    made, _ = encoder(tiny_model, "text", 40, "truncate")
    table = made.encode(*rows)
    assert table["id"].to_pylist() == ["a", "b"], "a prompt that fills the length leaves nothing"
    assert [len(ids) for ids in table["input_ids"].to_pylist()][1] == 40
    assert table["input_ids"].to_pylist()[1][-1] != 2, "a cut answer is not one that has ended"
    assert (made.counts["kept"], made.counts["truncated"], made.counts["dropped"]) == (2, 1, 1)
    assert made.counts["tokens"] == sum(map(len, table["input_ids"].to_pylist()))


def test_a_completion_that_just_fits_is_whole(tiny_model):
    made, _ = encoder(tiny_model, "text")
    (row,) = made.encode(["a"], [PROMPT], [COMPLETION]).to_pylist()
    exact, _ = encoder(tiny_model, "text", len(row["input_ids"]))
    assert exact.encode(["a"], [PROMPT], [COMPLETION]).to_pylist() == [row]
    short, _ = encoder(tiny_model, "text", len(row["input_ids"]) - 1)
    assert short.encode(["a"], [PROMPT], [COMPLETION]).num_rows == 0


def test_auto_is_chat_where_there_is_a_template_and_chat_is_refused_where_there_is_none(
    tiny_model, plain_model
):
    chat, plain = inspect(tiny_model), inspect(plain_model)
    assert choose_encoding("auto", chat.tokenizer, "m") == "chat"
    assert choose_encoding("text", chat.tokenizer, "m") == "text"
    assert choose_encoding("auto", plain.tokenizer, "m") == "text"
    with pytest.raises(EngineError, match="has no chat template; set encoding to text"):
        choose_encoding("chat", plain.tokenizer, "m")
