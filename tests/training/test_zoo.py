"""The encoder on every family of chat templates and every kind of tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.chat_template import encode
from ray_si.errors import EngineError
from ray_si.training.encode import IGNORED, REFUSALS, Encoder, as_prompt
from tests.training import zoo

PROMPT = "Name a river.\n\nin Egypt"
ANSWERS = ("The Nile.", "d", "end", "n", "|", "im_end", ">", "1", "Nil é日😀", "a\n\nb ", "x" * 50)
"""Short ones occur in the words of templates, such as the end of a turn."""


def encoder(kind, family, **options):
    tokenizer = zoo.tokenizer(kind, family)
    stops = tokenizer.convert_tokens_to_ids(list(zoo.FAMILIES[family].stops))
    encoding = "chat" if tokenizer.chat_template else "text"
    made = Encoder(
        tokenizer, encoding, **{"max_length": 9999, "too_long": "drop", "stops": stops} | options
    )
    return made, tokenizer, as_prompt(PROMPT, encoding)


def split(row):
    """Prompt and learned tokens."""
    start = row["labels"].count(IGNORED)
    assert row["labels"] == [IGNORED] * start + row["input_ids"][start:]
    return row["input_ids"][:start], row["input_ids"][start:]


def written(tokenizer, tokens):
    return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("kind", zoo.KINDS)
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_what_is_learned_is_the_answer_in_its_turn_and_a_token_that_ends_it(family, kind):
    made, tokenizer, asked = encoder(kind, family)
    of = zoo.FAMILIES[family]
    engines = encode(tokenizer, Request(asked, SamplingParams(), 0), {})
    rows = made.encode([*ANSWERS], [PROMPT] * len(ANSWERS), [*ANSWERS]).to_pylist()
    assert [row["id"] for row in rows] == list(ANSWERS), dict(made.counts)
    ends = tokenizer.convert_tokens_to_ids([*(of.stops or [zoo.EOS])])
    for answer, row in zip(ANSWERS, rows, strict=True):
        prompt, learned = split(row)
        assert prompt == engines, "the prompt is that of an engine"
        assert learned[-1] in ends
        assert len(set(learned[:-1]) & set(ends)) == 0, "it ends once"
        wanted = of.lead + answer + (of.end or zoo.EOS)
        before, whole = (written(tokenizer, tokens) for tokens in (prompt, prompt + learned))
        if kind in zoo.TEXT_FAITHFUL:
            assert whole == before + wanted
        elif "<unk>" not in whole:  # spaces beside special tokens are the tokenizer's own
            assert whole.replace(" ", "") == (before + wanted).replace(" ", "")


@pytest.mark.parametrize("kind", zoo.KINDS)
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_an_answer_that_spells_a_control_token_is_counted_and_not_trained_on(family, kind):
    made, _, _ = encoder(kind, family)
    answers = [f"say {token} or" for token in zoo.FAMILIES[family].control]
    table = made.encode([*map(str, answers)], [PROMPT] * len(answers), answers)
    assert table.num_rows == 0
    assert made.counts["control_token"] == made.counts["rows"] == len(answers)


def test_an_answer_whose_end_the_tokenizer_does_not_see_is_counted_and_not_trained_on():
    """The token END counts where no letter is beside it."""
    backend = zoo.tokenizer("gpt2", "none").backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=zoo.EOS)
    tokenizer.add_tokens([AddedToken("END", single_word=True)])
    tokenizer.chat_template = (
        "{{ messages[0].content }}\n{% if not add_generation_prompt %}{{ messages[1].content }}END"
        "{% endif %}"
    )
    stops = [tokenizer.convert_tokens_to_ids("END")]
    made = Encoder(tokenizer, "chat", max_length=99, too_long="drop", stops=stops)
    table = made.encode(["a", "b"], ["Ask"] * 2, ["word", "word."])
    assert table["id"].to_pylist() == ["b"]
    assert made.counts["no_end_token"] == 1


def test_a_tokenizer_without_an_end_is_refused():
    backend = zoo.tokenizer("gpt2", "none").backend_tokenizer
    endless = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(EngineError, match="no end-of-sequence token"):
        Encoder(endless, "text", max_length=99, too_long="drop")


pieces = st.sampled_from(
    [
        "d",
        "|>",
        "<|",
        "im",
        "end",
        "\n",
        " ",
        "<think>",
        "</think>",
        "assistant",
        "é",
        "x",
        "[/",
        "INST]",
    ]
)
answers = st.one_of(st.text(max_size=12), st.lists(pieces, max_size=6).map("".join))


@given(answers, st.sampled_from(list(zoo.FAMILIES)), st.sampled_from(zoo.TEXT_FAITHFUL))
@example("d", "qwen3-thinking", "gpt2")
@example("\n", "none", "gpt2")
@example("", "chatml", "bytes")
def test_any_answer_is_learned_to_the_letter_or_counted_with_a_reason(answer, family, kind):
    made, tokenizer, _ = encoder(kind, family)
    of = zoo.FAMILIES[family]
    table = made.encode(["a"], [PROMPT], [answer])
    refused = [name for name in REFUSALS if made.counts[name]]
    assert made.counts["kept"] + len(refused) == 1
    if refused:
        spelled = [token for token in of.control if token in answer + of.end[:-1]]
        assert spelled or refused == ["inside_token"], (refused, answer)
        return
    prompt, learned = split(table.to_pylist()[0])
    whole = written(tokenizer, prompt + learned)
    closes = "</think>" in answer and "think" in of.lead
    assert whole.endswith(of.end or zoo.EOS)
    if not closes and "\ufffd" not in whole:
        assert whole == written(tokenizer, prompt) + of.lead + answer + (of.end or zoo.EOS)
