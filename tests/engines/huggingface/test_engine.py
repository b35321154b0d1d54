"""The transformers engine on the bundled model."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from ray_si.engines import bundled
from ray_si.engines.base import EngineDiedError, Request, SamplingParams
from ray_si.engines.huggingface.engine import TransformersEngine
from ray_si.engines.huggingface.loading import LanguageModel, load
from ray_si.engines.waiting import Waiting
from ray_si.errors import EngineError
from ray_si.self_instruct.prompts import LABELS, classification_prompt

GREEDY = SamplingParams(max_tokens=12, temperature=0)
SAMPLED = SamplingParams(max_tokens=12, temperature=0.9, top_p=0.9, top_k=50)
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived an old fisherman who",
    "1, 2, 3, 4,",
]
PREFIX = "A list of short facts. " * 12


@pytest.fixture(scope="module")
def engine():
    loaded = load("smollm2-135m-instruct", dtype="float32", threads=2)
    return TransformersEngine(loaded, max_batch=8)


def ask(engine, requests):
    async def together():
        return await asyncio.wait_for(asyncio.gather(*map(engine.generate, requests)), 120)

    return asyncio.run(together())


def test_greedy_text_equals_transformers_own(engine):
    (done,) = ask(engine, [Request(PROMPTS[0], GREEDY, 0)])
    ids = engine._lm.tokenizer(PROMPTS[0], return_tensors="pt")
    written = engine._model.generate(**ids, max_new_tokens=12, do_sample=False)
    expected = engine._lm.tokenizer.decode(written[0, ids["input_ids"].shape[1] :])
    assert done.text == expected
    assert "Paris" in done.text
    assert (done.finish_reason, done.completion_tokens) == ("length", 12)


def test_a_models_own_sampling_defaults_do_not_count(engine, tmp_path):
    for path in Path(bundled.resolve("smollm2-135m-instruct")).iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "generation_config.json").unlink()
    defaults = {"eos_token_id": 2, "repetition_penalty": 9.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(defaults))
    penalised = TransformersEngine(load(str(tmp_path), dtype="float32", threads=2))
    request = Request(PROMPTS[2], GREEDY, 0)
    assert ask(penalised, [request])[0].text == ask(engine, [request])[0].text


def test_a_request_that_the_model_chokes_on_fails_alone_and_the_next_is_answered(
    engine, monkeypatch
):
    with monkeypatch.context() as patch:
        # no such token: an IndexError
        patch.setattr(LanguageModel, "encode", lambda self, request: [10**6])
        with pytest.raises(IndexError):
            ask(engine, [Request(PROMPTS[0], GREEDY, 0)])
    (done,) = ask(engine, [Request(PROMPTS[0], GREEDY, 0)])
    assert "Paris" in done.text


def test_of_a_model_that_computes_nan_no_request_has_an_answer(engine):
    class Broken(torch.nn.Module):
        def forward(self, hidden):
            return engine_head(hidden) * torch.nan

    engine_head, engine._model.lm_head = engine._model.lm_head, Broken()
    try:
        one = [replace(sampling, max_tokens=1) for sampling in (GREEDY, SAMPLED)]
        requests = [Request(PROMPTS[0], sampling, 0) for sampling in one]
        answers = ask(
            engine, [*requests, Request(PROMPTS[0], GREEDY, 0, labels=LABELS["completion"])]
        )
    finally:
        engine._model.lm_head = engine_head
    for answer in answers:
        assert (answer.text, answer.finish_reason) == ("", "error")
        assert "NaN" in answer.error


@pytest.mark.parametrize(
    ("prefix", "sampling"),
    [("", GREEDY), (PREFIX, SAMPLED)],
    ids=["padded-greedy", "shared-prefix-sampled"],
)
def test_a_batch_gives_what_each_request_gives_alone(engine, prefix, sampling):
    requests = [Request(prefix + prompt, sampling, seed) for seed, prompt in enumerate(PROMPTS)]
    together = ask(engine, requests)
    for request, done in zip(requests, together, strict=True):
        (alone,) = ask(engine, [request])
        assert done.text == alone.text
        assert done.mean_logprob == pytest.approx(alone.mean_logprob, abs=1e-3)


def test_a_kept_prefix_is_used_where_it_is_most_of_what_a_batch_shares(engine, monkeypatch):
    def used(length, count=2):
        rows = [[*range(1, length + 1), own] for own in range(1, count + 1)]
        with torch.inference_mode():
            return engine._prepare(rows, rows[0][:length])[-1]

    monkeypatch.setattr(engine, "_prefix", None)
    assert [used(40), used(60), used(90), used(100)] == [40, 40, 90, 90]
    assert used(300, count=1) == 90


def test_a_batch_that_does_not_fit_into_memory_is_answered_in_parts(engine, monkeypatch):
    sizes, original = [], engine._write

    def write(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")  # as a GPU would have it
        return original(batch)

    short = replace(SAMPLED, max_tokens=4)
    requests = [Request(PROMPTS[i % 3], short, i) for i in range(5)]
    expected = ask(engine, requests)
    monkeypatch.setattr(engine, "_write", write)
    assert [one.text for one in ask(engine, requests)] == [one.text for one in expected]
    assert sizes == [5, 2, 3, 1, 2]
    engine.check_health()


def test_a_broken_gpu_makes_the_replica_be_replaced(engine, monkeypatch):
    def write(batch):
        raise RuntimeError("CUDA error: device-side assert triggered")

    engine.check_health()
    monkeypatch.setattr(engine, "_write", write)
    monkeypatch.setattr(engine, "_broken", None)
    with pytest.raises(EngineDiedError, match="device-side assert"):
        ask(engine, [Request(PROMPTS[0], GREEDY, 0)])
    monkeypatch.undo()  # whatever it would do by now, it is asked nothing more
    monkeypatch.setattr(engine, "_broken", "CUDA error")
    with pytest.raises(EngineDiedError, match="CUDA error"):
        ask(engine, [Request(PROMPTS[0], GREEDY, 0)])
    with pytest.raises(EngineDiedError, match="CUDA error"):
        engine.check_health()


def test_seeds_decide_the_draw(engine):
    requests = [Request(PROMPTS[1], SAMPLED, seed) for seed in (1, 1, 2)]
    first, same, other = ask(engine, requests)
    assert first.text == same.text
    assert first.text != other.text


def test_rows_keep_their_own_limits_and_stop_strings(engine):
    short = replace(GREEDY, max_tokens=3)
    stopped = replace(GREEDY, max_tokens=30, stop=("9,",))
    one, two = ask(engine, [Request(PROMPTS[0], short, 0), Request(PROMPTS[2], stopped, 0)])
    assert (one.completion_tokens, one.finish_reason) == (3, "length")
    assert two.finish_reason == "stop"
    assert two.text.rstrip().endswith("8,")
    assert two.completion_tokens < 30


def test_presence_penalty_discourages_repetition(engine):
    prompt = "The dog barks. The dog barks. The dog barks. The dog barks."
    plain, penalised = ask(
        engine,
        [
            Request(prompt, replace(GREEDY, max_tokens=24), 0),
            Request(prompt, replace(GREEDY, max_tokens=24, presence_penalty=50.0), 0),
        ],
    )
    assert plain.text.count("The dog barks") > 3
    assert penalised.text.count("dog") <= 1


def test_label_scores_are_the_models_log_probabilities(engine):
    tasks = ["Label the message as spam or not spam.", "Write a poem about rain."]
    labels = LABELS["completion"]
    requests = [
        Request(
            classification_prompt(task, style="completion").prompt,
            GREEDY,
            0,
            "classification",
            labels,
        )
        for task in tasks
    ]
    for request, done in zip(requests, ask(engine, requests), strict=True):
        ids = engine._lm.tokenizer(request.prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            scores = engine._model(ids).logits[0, -1].log_softmax(0)
        for label, score in zip(labels, done.label_logprobs, strict=True):
            (token,) = engine._lm.tokenizer(label, add_special_tokens=False)["input_ids"]
            assert score == pytest.approx(float(scores[token]), abs=1e-3)
        assert done.text == labels[done.label_logprobs.index(max(done.label_logprobs))]


def test_labels_of_several_tokens_are_summed(engine):
    labels = (" Paris, of course", " no")
    (done,) = ask(engine, [Request(PROMPTS[0], GREEDY, 0, "classification", labels)])
    ids = engine._lm.tokenizer(PROMPTS[0] + labels[0], return_tensors="pt")["input_ids"]
    start = len(engine._lm.tokenizer(PROMPTS[0])["input_ids"])
    with torch.inference_mode():
        scores = engine._model(ids).logits[0].log_softmax(-1)
    expected = sum(float(scores[i - 1, ids[0, i]]) for i in range(start, ids.shape[1]))
    assert done.label_logprobs[0] == pytest.approx(expected, abs=1e-3)


def test_chat_turns_go_through_the_models_template(engine):
    turns = [{"role": "user", "content": "What is the capital of France? One word."}]
    (done,) = ask(engine, [Request(turns, replace(GREEDY, max_tokens=40), 0)])
    assert "Paris" in done.text
    assert done.finish_reason == "stop"
    assert "<|im_end|>" not in done.text


def test_a_thought_that_the_template_opens_stands_behind_its_tag(engine, monkeypatch):
    """The text alone tells: tokens and log-probabilities are those of what was written."""
    request = Request([{"role": "user", "content": "Is it?"}], GREEDY, 0)
    row = engine._lm.tokenizer("1. Name a river.")["input_ids"]
    written = partial(engine._lm.completion, request, 9, row, [-1.0] * len(row))
    plain = written()
    opens = engine._lm.tokenizer.chat_template + "{{ '<think>\\n' }}"
    monkeypatch.setattr(engine._lm.tokenizer, "chat_template", opens)
    assert written() == replace(plain, text="<think>\n1. Name a river.")


def test_too_long_a_prompt_is_refused_and_its_neighbours_are_answered(engine):
    long = Request("word " * 9000, GREEDY, 0)
    bad, good = ask(engine, [long, Request(PROMPTS[0], GREEDY, 0)])
    assert bad.finish_reason == "refused"
    assert "exceed" in bad.error
    assert "Paris" in good.text


def test_more_requests_than_a_batch_holds_are_all_answered(engine):
    requests = [Request(f"Number {i} is", replace(GREEDY, max_tokens=2), i) for i in range(21)]
    assert all(done.completion_tokens == 2 for done in ask(engine, requests))


def test_a_batch_is_of_prompts_that_begin_alike_where_these_fill_half_of_it(engine):
    begins = {"a": list(range(100)), "b": list(range(100, 200))}

    async def batch_of(kinds):
        pending = [
            Waiting(Request("", GREEDY, k), [*begins.get(kind, [900 + k]), k])
            for k, kind in enumerate(kinds)
        ]
        batch, rest = engine._next_batch(pending)
        assert sorted(w.request.seed for w in (*batch, *rest)) == list(range(len(kinds)))
        return "".join(kinds[w.request.seed] for w in batch)

    assert asyncio.run(batch_of("abababab")) == "aaaa"
    assert asyncio.run(batch_of("bab")) == "bb"
    assert asyncio.run(batch_of("axyzvwbb")) == "axyzvwbb"  # too few to run by themselves
    assert asyncio.run(batch_of("aaaaaaaaaab")) == "a" * 8


def test_a_model_that_cannot_be_loaded_is_an_engine_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="could not be loaded"):
        load(str(tmp_path))


def test_the_model_is_converted_once(engine):
    folder = bundled.resolve("smollm2-135m-instruct")
    assert folder == bundled.resolve("smollm2-135m-instruct")
    assert folder.startswith(str(bundled.cache_folder()))
