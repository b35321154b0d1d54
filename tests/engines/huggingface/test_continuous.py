"""Continuous batching over a paged cache, on the bundled model and a processor."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from transformers.generation.continuous_batching.requests import RequestState

from ray_si.engines import registry
from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.huggingface import engine as transformers
from ray_si.engines.huggingface.continuous import ContinuousEngine
from ray_si.engines.huggingface.engine import TransformersEngine
from ray_si.engines.huggingface.loading import LanguageModel, load
from ray_si.errors import EngineError
from ray_si.self_instruct.prompts import LABELS, classification_prompt

MODEL = "smollm2-135m-instruct"
SLOTS = 4
GREEDY = SamplingParams(max_tokens=12, temperature=0)
SAMPLED = SamplingParams(max_tokens=8, temperature=0.9, top_p=0.9, top_k=50)
TOPICS = ["rain", "the sea", "a dog"]
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived an old fisherman who",
    "1, 2, 3, 4,",
]


@pytest.fixture(scope="module")
def loaded():
    return load(MODEL, dtype="float32", threads=2)


@pytest.fixture(scope="module")
def static():
    # with weights of its own: a continuous engine may be at them while it ends what is answered
    return TransformersEngine(load(MODEL, dtype="float32", threads=2), max_batch=16)


@pytest.fixture(scope="module")
def engine(loaded):
    made = ContinuousEngine(loaded, max_batch=SLOTS, batch_tokens=4096)
    yield made
    made.close()


@pytest.fixture
def small(loaded):
    """An engine whose cache holds 128 tokens, less than four requests may need."""
    made = ContinuousEngine(loaded, max_batch=SLOTS, batch_tokens=128)
    yield made
    made.close()


def ask(engine, requests):
    async def together():
        return await asyncio.wait_for(asyncio.gather(*map(engine.generate, requests)), 120)

    return asyncio.run(together())


def agree(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert one.prompt_tokens == other.prompt_tokens
        assert one.completion_tokens == other.completion_tokens
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-3)


def test_greedy_answers_of_many_lengths_are_those_of_static_batches(engine, static):
    prompt = "A list of short facts about the rivers of Europe. " * 6
    requests = [
        *(
            Request(text, replace(GREEDY, max_tokens=3 + 5 * i), i)
            for i, text in enumerate(PROMPTS)
        ),
        Request(prompt + "The longest is", GREEDY, 3),
        Request(prompt + "The Rhine", replace(GREEDY, max_tokens=1), 4),
        Request([{"role": "user", "content": "Capital of France? One word."}], GREEDY, 5),
    ]
    assert len(requests) > SLOTS
    agree(ask(engine, requests), ask(static, requests))


def test_stop_strings_end_the_text_and_give_their_slot_to_the_next(engine, static):
    stopped = [
        Request(PROMPTS[2], replace(GREEDY, max_tokens=30, stop=(f"{n},",)), 0) for n in (7, 8)
    ]
    endless = Request(PROMPTS[2], replace(GREEDY, stop=("never comes", "nor this")), 0)
    requests = [*stopped, stopped[0], endless, stopped[1]]
    answers = ask(engine, requests)
    agree(answers, ask(static, requests))
    assert [one.finish_reason for one in answers] == ["stop", "stop", "stop", "length", "stop"]
    assert answers[0].text.rstrip().endswith("6,")


def test_a_presence_penalty_counts_what_the_request_itself_has_written(engine, static):
    prompt = "The dog barks. The dog barks. The dog barks. The dog barks."
    requests = [
        Request(prompt, replace(GREEDY, max_tokens=24, presence_penalty=penalty), 0)
        for penalty in (0.0, 50.0, 2.0, 50.0, 50.0)  # the last in a slot that another has used
    ]
    answers = ask(engine, requests)
    agree(answers, ask(static, requests))
    assert answers[0].text.count("The dog barks") > 3
    assert answers[1].text.count("dog") <= 1


def test_label_scores_are_those_of_static_batches(engine, static):
    tasks = ["Label the message as spam or not spam.", "Write a poem about rain.", "Say hi."]
    prompts = [classification_prompt(task, style="completion").prompt for task in tasks]
    requests = [Request(p, GREEDY, 0, "classification", LABELS["completion"]) for p in prompts]
    requests.append(Request(PROMPTS[0], GREEDY, 0, "classification", (" Paris, of course", " no")))
    for one, other in zip(ask(engine, requests), ask(static, requests), strict=True):
        assert one.label_logprobs == pytest.approx(other.label_logprobs, abs=2e-3)
        assert (one.text, one.prompt_tokens) == (other.text, other.prompt_tokens)


def test_draws_are_those_of_static_batches_whatever_the_neighbours(engine, static):
    hot = replace(SAMPLED, temperature=1.5, top_p=1, top_k=0)
    requests = [Request(PROMPTS[1], SAMPLED, seed) for seed in (1, 1, 2)]
    requests += [Request(PROMPTS[0], hot, 2**62 + 5), Request(PROMPTS[0], GREEDY, 1)]
    together = ask(engine, requests)
    assert together[0].text == together[1].text != together[2].text
    agree(together, ask(static, requests))
    agree(together[2:4], [ask(engine, [request])[0] for request in requests[2:4]])
    assert "Paris" in together[-1].text


def test_what_loses_its_pages_is_computed_again_and_draws_as_if_it_had_not(small, monkeypatch):
    again, original = [], RequestState.create_equivalent_initial_request
    monkeypatch.setattr(
        RequestState,
        "create_equivalent_initial_request",
        lambda state: (again.append(state.generated_len()), original(state))[1],
    )
    penalised = replace(SAMPLED, max_tokens=36, presence_penalty=1.0)
    requests = [Request(f"Write about {topic}.", penalised, i) for i, topic in enumerate(TOPICS)]
    together = ask(small, requests)
    assert any(again), "the test needs a smaller cache"
    agree(together, [ask(small, [request])[0] for request in requests])


def test_what_never_fits_is_refused_and_its_neighbours_are_answered(engine, small):
    for each, long in ((engine, "word " * 9000), (small, "word " * 125)):
        bad, good = ask(each, [Request(long, GREEDY, 0), Request(PROMPTS[0], GREEDY, 0)])
        assert bad.finish_reason == "refused"
        assert "exceed the context" in bad.error
        assert "Paris" in good.text
    assert "context of 128" in bad.error


def test_a_caller_that_goes_away_leaves_its_slots_to_others(engine):
    async def leave():
        long = replace(GREEDY, max_tokens=2000)
        asked = [asyncio.create_task(engine.generate(Request(PROMPTS[1], long, i)))
                 for i in range(3 * SLOTS)]  # fmt: skip
        await asyncio.sleep(0.5)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(leave())
    began = time.monotonic()
    (done,) = ask(engine, [Request(PROMPTS[0], GREEDY, 0)])
    assert "Paris" in done.text
    assert time.monotonic() - began < 60
    assert len(engine._free) == engine.capacity


def test_an_error_inside_fails_what_was_asked_and_the_replica_is_replaced(loaded, monkeypatch):
    broken = ContinuousEngine(loaded, max_batch=2, batch_tokens=512)
    broken.check_health()
    original, steps = type(broken._sampler).prepare_tensor_args, []

    def fail(self, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")  # as a GPU would have it
        return original(self, **kwargs)

    monkeypatch.setattr(type(broken._sampler), "prepare_tensor_args", fail)
    answers = [broken.generate(Request(p, GREEDY, 0)) for p in PROMPTS * 4]

    async def together():
        return await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 60)

    failures = asyncio.run(together())
    assert all(isinstance(one, RuntimeError) for one in failures)
    assert "out of memory" in str(failures[0])
    broken._reader.join(30)
    with pytest.raises(EngineError, match="out of memory"):
        broken.check_health()
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(broken, [Request(PROMPTS[0], GREEDY, 0)])


def test_an_answer_that_cannot_be_read_fails_alone(engine, monkeypatch):
    original = LanguageModel.completion

    def read(self, prompt_tokens, row, logprobs, params):
        if params.max_tokens == 5:
            raise OverflowError("no such token")
        return original(self, prompt_tokens, row, logprobs, params)

    monkeypatch.setattr(LanguageModel, "completion", read)
    with pytest.raises(OverflowError):
        ask(engine, [Request(PROMPTS[0], replace(GREEDY, max_tokens=5), 0)])
    assert "Paris" in ask(engine, [Request(PROMPTS[0], GREEDY, 0)])[0].text
    engine.check_health()


def test_closed_it_fails_what_is_asked_and_a_process_ends_without_closing_it(loaded):
    made = ContinuousEngine(loaded, max_batch=2, batch_tokens=512)

    async def close():
        asked = asyncio.create_task(made.generate(Request(PROMPTS[1], GREEDY, 0)))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(made.close)
        return await asyncio.gather(asked, return_exceptions=True)

    (answer,) = asyncio.run(close())
    assert isinstance(answer, RuntimeError)
    with pytest.raises(EngineError, match="closed"):
        made.check_health()
    script = (
        "import asyncio\n"
        "from ray_si.engines import registry\n"
        "from ray_si.engines.base import Request, SamplingParams\n"
        f"made = registry.create('transformers', {MODEL!r}, dict(\n"
        "    batching='continuous', max_batch=2, batch_tokens=512, dtype='float32'))\n"
        "request = Request('The capital of France is', SamplingParams(4, temperature=0), 0)\n"
        "print(type(made).__name__, asyncio.run(made.generate(request)).text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("ContinuousEngine  Paris")


def test_too_little_memory_for_a_cache_is_an_engine_error_with_what_to_do(loaded):
    with pytest.raises(EngineError, match=r"MemoryError.*generator\.batching: static"):
        ContinuousEngine(loaded, batch_tokens=1 << 34)


def test_on_a_processor_batches_are_static_unless_continuous_ones_are_asked_for(
    loaded, monkeypatch
):
    monkeypatch.setattr(transformers, "load", lambda model, **kwargs: loaded)
    assert isinstance(registry.create("transformers", MODEL, {}), TransformersEngine)
    made = registry.create("transformers", MODEL, {"batching": "continuous", "batch_tokens": 512})
    assert isinstance(made, ContinuousEngine)
    made.close()


def test_where_it_cannot_start_auto_goes_on_with_static_batches(loaded, monkeypatch, caplog):
    monkeypatch.setattr(transformers, "load", lambda model, **kwargs: loaded)
    monkeypatch.setattr(transformers, "_is_suited", lambda language_model: True)
    huge = {"batch_tokens": 1 << 34}
    assert isinstance(registry.create("transformers", MODEL, huge), TransformersEngine)
    assert "batches are static" in caplog.text
    with pytest.raises(EngineError, match="cannot start"):
        registry.create("transformers", MODEL, {**huge, "batching": "continuous"})
