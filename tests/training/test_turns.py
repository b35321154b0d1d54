"""An assistant's turn, as chat templates write it."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from ray_si.errors import EngineError
from ray_si.training.encode import Encoder
from tests.training import zoo
from tests.training.test_zoo import PROMPT, encoder, written


@pytest.mark.parametrize("family", ["qwen3", "qwen3-thinking", "deepseek-r1"])
@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_an_answer_with_a_thought_keeps_it_and_gets_no_empty_one(family, opening):
    made, tokenizer, _ = encoder("gpt2", family)
    answer = f"{opening}Egypt, so\n</think>\n\nThe Nile."
    (row,) = made.encode(["a"], [PROMPT], [answer]).to_pylist()
    whole = written(tokenizer, row["input_ids"])
    assert whole.count("</think>") == 1
    assert "so\n</think>\n\nThe Nile." in whole
    assert whole.count("<think>") == (1 if opening or family != "qwen3" else 0)


@pytest.mark.parametrize(("template", "fault"), zoo.BAD_TEMPLATES.items())
def test_a_template_that_loses_or_alters_what_it_is_given_is_refused_in_one_line(template, fault):
    tokenizer = zoo.tokenizer("gpt2", "none")
    broken = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token=zoo.EOS
    )
    broken.chat_template = template
    with pytest.raises(EngineError, match=fault) as caught:
        Encoder(broken, "chat", max_length=99, too_long="drop")
    assert "set encoding to text" in str(caught.value)
    assert "\n" not in str(caught.value)
