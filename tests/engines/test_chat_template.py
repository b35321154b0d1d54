"""Chat templates get their arguments; labels are not scored where a thought begins."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.chat_template import (
    around_thoughts,
    check_rendering,
    check_turns,
    decode,
    encode,
    with_opening,
)
from ray_si.errors import EngineError
from ray_si.self_instruct.thoughts import split_thoughts

TURNS = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"
HYBRID = TURNS + "{% if enable_thinking is false %} <think> </think>{% endif %}"
OFF_BY_DEFAULT = TURNS + "{% if thinking %} <think>{% else %} </think>{% endif %}"
ALWAYS = TURNS + " <think>\n"
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)
STRIPS_ONLY = TURNS.replace("m['content']", "m['content'].split('</think>')[-1]")

ASKED = Request(
    [{"role": "user", "content": "Is it?"}], SamplingParams(), 0, "classification", ("Yes", "No")
)


def _tokenizer(template):
    words = ["[UNK]", "Is", "it", "?", "think", "/", "<", ">", "[", "]", "user", "assistant"]
    model = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]")
    made.chat_template = template
    return made


def _text(template, arguments, request=ASKED):
    tokenizer = _tokenizer(template)
    return tokenizer.decode(encode(tokenizer, request, arguments)).replace(" ", "")


def test_the_template_gets_its_arguments():
    assert _text(HYBRID, {"enable_thinking": False}).endswith("[assistant]<think></think>")
    plain = Request(ASKED.prompt, ASKED.sampling, 0)
    assert _text(HYBRID, {}, plain).endswith("[assistant]")
    assert _text(OFF_BY_DEFAULT, {"thinking": True}, plain).endswith("[assistant]<think>")


def test_special_tokens_are_dropped_but_those_around_a_thought():
    tokenizer = _tokenizer(TURNS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "[END]"]})
    plain = tokenizer("Is it [END]")["input_ids"]
    assert decode(tokenizer, plain) == tokenizer.decode(plain, skip_special_tokens=True) == "Is it"
    assert around_thoughts(tokenizer) == set(tokenizer("[THINK] [/THINK]")["input_ids"])
    thought = tokenizer("[THINK] it ? [/THINK] Is it [END]")["input_ids"]
    assert decode(tokenizer, thought).split() == ["[THINK]", "it", "?", "[/THINK]", "Is", "it"]


def test_special_tokens_without_a_role_are_special_too():
    """As in models whose files mark tags as special, and name only what ends a text."""
    tokenizer = _tokenizer(TURNS)
    marked = [AddedToken(tag, special=True) for tag in ("[THINK]", "[/THINK]", "[END]")]
    tokenizer.backend_tokenizer.add_special_tokens(marked)
    assert "[THINK]" not in tokenizer.all_special_tokens
    plain = tokenizer("Is it [END]")["input_ids"]
    assert decode(tokenizer, plain) == "Is it"
    thought = tokenizer("[THINK] it ? [/THINK] Is it [END]")["input_ids"]
    assert decode(tokenizer, thought).split() == ["[THINK]", "it", "?", "[/THINK]", "Is", "it"]


@pytest.mark.parametrize(
    ("template", "arguments"),
    [(HYBRID, {}), (HYBRID, {"enable_thinking": True}), (ALWAYS, {}),
     (ALWAYS, {"enable_thinking": False}), (OFF_BY_DEFAULT, {"thinking": True})],
)  # fmt: skip
def test_labels_are_not_scored_where_a_thought_begins(tmp_path, template, arguments):
    with pytest.raises(EngineError, match=r"chat_template_kwargs.*classification\.method"):
        _text(template, arguments)
    _tokenizer(template).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="labels cannot be scored"):
        check_rendering(tmp_path, [ASKED], arguments)
    check_rendering(tmp_path, [Request(ASKED.prompt, ASKED.sampling, 0)], arguments)


@pytest.mark.parametrize(
    ("template", "arguments"),
    [(HYBRID, {"enable_thinking": False}), (OFF_BY_DEFAULT, {}), (STRIPS_ONLY, {}), (TURNS, {})],
)
def test_labels_are_scored_where_the_answer_begins(tmp_path, template, arguments):
    assert "[assistant]" in _text(template, arguments)
    _tokenizer(template).save_pretrained(tmp_path)
    check_rendering(tmp_path, [ASKED], arguments)


def test_a_folder_without_a_template_passes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    check_rendering(tmp_path, [ASKED], {})


@pytest.mark.parametrize("begun", ["", "Is it"])
def test_an_open_turn_goes_on_where_its_text_ends(begun):
    turns = [*ASKED.prompt, {"role": "user", "content": begun}]
    request = Request(turns, ASKED.sampling, 0, "input", continue_final_message=True)
    assert _text(ALWAYS, {}, request) == "[user]Isit?[user]" + begun.replace(" ", "")


@pytest.mark.parametrize(
    ("template", "arguments", "is_open"),
    [(ALWAYS, {}, True), (OFF_BY_DEFAULT, {"thinking": True}, True), (OFF_BY_DEFAULT, {}, False),
     (HYBRID, {}, False), (HYBRID, {"enable_thinking": False}, False), (TURNS, {}, False)],
)  # fmt: skip
def test_a_thought_that_the_prompt_opens_is_no_answer_where_it_is_cut(template, arguments, is_open):
    request = Request(ASKED.prompt, ASKED.sampling, 0)
    written = partial(with_opening, _tokenizer(template), request, arguments)
    musings = "1. Name a river.\n2. Name a town.\n"
    assert split_thoughts(written(musings)).is_finished == (not is_open)
    assert written(musings) == ("<think>\n" if is_open else "") + musings
    assert split_thoughts(written("hm</think>Yes")) == split_thoughts("hm</think>Yes")
    assert written("<think>\nhm") == "<think>\nhm"  # some models write it again


@pytest.mark.parametrize(
    "request_",
    [Request("Is it?", SamplingParams(), 0),
     Request(ASKED.prompt, SamplingParams(), 0, continue_final_message=True)],
)  # fmt: skip
def test_a_prompt_without_a_turn_of_the_model_opens_no_thought(request_):
    assert with_opening(_tokenizer(ALWAYS), request_, {}, "1. Name") == "1. Name"


def test_turns_need_a_chat_template_as_far_as_the_files_are_there(tmp_path):
    check_turns(tmp_path, [ASKED])  # nothing is there yet
    (tmp_path / "tokenizer_config.json").write_text("{}")
    check_turns(tmp_path, [Request("Name a river.", ASKED.sampling, 0)])
    with pytest.raises(EngineError, match=r"no chat template: set generator\.prompt_style"):
        check_turns(tmp_path, [ASKED])
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    check_turns(tmp_path, [ASKED])
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    check_turns(tmp_path, [ASKED])


@pytest.mark.parametrize(
    ("purpose", "advice"),
    [("input", r"instances\.inputs to asked"), ("instructions", r"bootstrap\.topics out"),
     ("answer", r"\): name another model")],
)  # fmt: skip
def test_a_template_that_refuses_a_system_turn_says_so_before_any_work(tmp_path, purpose, advice):
    turns = [{"role": "system", "content": "it"}, {"role": "user", "content": ""}]
    request = Request(turns, ASKED.sampling, 0, purpose, continue_final_message=purpose != "answer")
    _tokenizer(REFUSES + TURNS).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=f"for {purpose} .no system role.*{advice}"):
        check_rendering(tmp_path, [replace(request, prompt=turns[1:]), request], {})
    _tokenizer(TURNS).save_pretrained(tmp_path)
    check_rendering(tmp_path, [request], {})


def test_a_tokenizer_that_is_not_all_there_is_left_to_the_engine(tmp_path):
    (tmp_path / "chat_template.jinja").write_text(REFUSES + TURNS)
    check_rendering(tmp_path, [ASKED], {})
