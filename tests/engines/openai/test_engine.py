"""The openai engine against a real HTTP server that misbehaves to order."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

import openai
import pytest

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.openai.engine import OpenAIEngine
from ray_si.engines.replay.engine import ReplayEngine
from ray_si.errors import EngineError, GenerationError
from ray_si.self_instruct.prompts import LABELS, classification_prompt
from tests.endpoint import KEY, MODEL

CHAT = [{"role": "user", "content": "Write tasks.\n1. Name three rivers.\n2."}]
TEXT = "1. Name three rivers.\n2."


def request(prompt=TEXT, seed=5, **sampling):
    return Request(prompt, SamplingParams(**{"max_tokens": 512} | sampling), seed)


def labelling(style):
    prompt = classification_prompt("Tell whether the review is positive.", style=style)
    params = SamplingParams(max_tokens=3, temperature=0, stop=prompt.stop)
    return Request(prompt.prompt, params, 1, "classification", LABELS[style])


def engine(endpoint, **options):
    given = {"base_url": endpoint.url, "api_key_env": "RAY_SI_TEST_KEY", "timeout_s": 5.0}
    return OpenAIEngine(MODEL, **given | options)


def ask(made, *requests):
    async def all_of_them():
        try:
            return await asyncio.gather(*map(made.generate, requests))
        finally:
            await made.aclose()

    return asyncio.run(all_of_them())


def replayed(request):
    return asyncio.run(ReplayEngine().generate(request))


@pytest.mark.parametrize("prompt", [TEXT, CHAT], ids=["text", "chat"])
def test_the_answer_comes_back_with_its_counts(endpoint, prompt):
    asked = request(prompt, top_p=0.9, top_k=7, presence_penalty=0.5, stop=("\n\n",))
    (completion,) = ask(engine(endpoint, extra_body={"user": "me"}), asked)
    expected = replayed(asked)
    assert completion == replace(expected, mean_logprob=None)
    (body,) = endpoint.seen()["bodies"]
    assert body.pop("messages" if prompt is CHAT else "prompt") == prompt
    assert body == {
        "model": MODEL,
        "max_tokens": 512,
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 7,
        "presence_penalty": 0.5,
        "stop": ["\n\n"],
        "seed": 5,
        "user": "me",
    }


def test_what_the_endpoint_does_not_take_is_left_out(endpoint):
    asked = request(stop=tuple("abcdef"), top_k=3)
    ask(engine(endpoint, omit=("seed", "top_k", "temperature")), asked)
    (body,) = endpoint.seen()["bodies"]
    assert set(body) == {"model", "prompt", "max_tokens", "stop"}
    assert body["stop"] == list("abcd")  # OpenAI takes four; the engine looks for the others


def test_a_stop_string_that_the_endpoint_ignores_ends_the_text_all_the_same(endpoint):
    (whole,) = ask(engine(endpoint), request())
    (cut,) = ask(engine(endpoint), request(stop=("#", "@", "~", "^", whole.text.split()[3])))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(whole.text.split()[3])]


@pytest.mark.parametrize(("concurrency", "refused"), [(1, 1), (8, 8)])
def test_newer_models_get_the_limit_under_the_name_they_know(endpoint, concurrency, refused):
    endpoint.set(new_name=True)
    made = engine(endpoint, concurrency=concurrency)
    completions = ask(made, *[request(CHAT, seed=seed) for seed in range(8)])
    assert all(completion.error is None for completion in completions)
    assert endpoint.seen()["counts"]["requests"] <= 8 + refused
    trial(engine(endpoint), request(CHAT), request(CHAT, seed=6), labelling("chat"))


def test_a_length_denied_in_both_names_does_not_change_what_texts_are_asked_with(endpoint):
    endpoint.set(faults={"too_large": 1})  # as vLLM says it, which knows one name for texts
    ask(engine(endpoint), request(), request(seed=6))
    assert all("max_tokens" in body for body in endpoint.seen()["bodies"])


@pytest.mark.parametrize("prompt", [TEXT, CHAT], ids=["text", "chat"])
def test_a_model_that_thought_until_it_had_no_token_left_was_cut_off(endpoint, prompt):
    endpoint.set(thinks=1000)
    (completion,) = ask(engine(endpoint), request(prompt))
    assert (completion.text, completion.finish_reason) == ("", "length")
    assert completion.completion_tokens == 512
    assert completion.prompt_tokens > 0


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_labels_are_scored(endpoint, style):
    asked = labelling(style)
    (completion,) = ask(engine(endpoint), asked)
    assert completion.label_logprobs == pytest.approx(replayed(asked).label_logprobs)
    assert completion.text == LABELS[style][0]


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_an_answer_without_log_probabilities_is_kept_as_text(endpoint, style):
    endpoint.set(no_logprobs=True)
    (completion,) = ask(engine(endpoint), labelling(style))
    assert completion.label_logprobs is None
    assert completion.text == " Yes"


def test_a_list_of_parts_and_a_thought_apart_are_read(endpoint):
    parts = [{"type": "text", "text": "1. Name "}, {"type": "text", "text": "a river."}]
    said = {"role": "assistant", "content": parts, "reasoning_content": "A draft."}
    endpoint.set(choice={"message": said, "finish_reason": "max_tokens"})
    (completion,) = ask(engine(endpoint), request(CHAT))
    assert completion.text == "<think>\nA draft.\n</think>\n\n1. Name a river."
    assert completion.finish_reason == "length"


def test_an_answer_that_ends_with_error_is_asked_for_again_then_that_rows_error(endpoint):
    endpoint.set(choice={"finish_reason": "error"})
    (completion,) = ask(engine(endpoint, retries=1), request())
    assert completion.finish_reason == "error"
    assert "the endpoint ended its answer with 'error'" in completion.error
    assert endpoint.seen()["counts"]["requests"] >= 2


def test_the_template_of_a_server_gets_its_arguments(endpoint):
    thinking = {"enable_thinking": False}
    ask(engine(endpoint, chat_template_kwargs=thinking, extra_body={"n": 1}), request(CHAT))
    (body,) = endpoint.seen()["bodies"]
    assert (body["chat_template_kwargs"], body["n"]) == (thinking, 1)


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"role": "assistant", "content": None, "reasoning_content": "Ok"}},
        {"logprobs": {"content": [{"token": "<think>", "logprob": -0.1, "bytes": [], "top_logprobs":
            [{"token": "<think>", "logprob": -0.1, "bytes": []},
             {"token": "Yes", "logprob": -9.0, "bytes": []}]}]}},
    ],
)  # fmt: skip
def test_labels_of_a_model_that_thinks_first_are_refused(endpoint, choice):
    endpoint.set(choice=choice)
    with pytest.raises(EngineError, match=r"thinks before it answers.*classification\.method"):
        asyncio.run(engine(endpoint).trial([labelling("chat")]))
    (completion,) = ask(engine(endpoint), labelling("chat"))
    assert completion.label_logprobs is None


def test_tokens_are_estimated_where_the_endpoint_does_not_count_them(endpoint):
    endpoint.set(no_usage=True)
    (completion,) = ask(engine(endpoint), request())
    assert completion.prompt_tokens == -(-len(TEXT) // 4)
    assert completion.completion_tokens == -(-len(completion.text) // 4)


@pytest.mark.parametrize(
    ("settings", "prompt", "reason"),
    [
        ({"filtered": 1}, TEXT, "content filter"),
        ({"declined": 1}, CHAT, "refused: I can't help with that."),
        ({"context": 100}, TEXT, "HTTP 400: maximum context is"),
        ({"faults": {"too_large": 1}}, TEXT, "is too large"),
    ],
)
def test_what_cannot_be_answered_is_that_rows_refusal(endpoint, settings, prompt, reason):
    endpoint.set(**settings)
    (completion,) = ask(engine(endpoint), request(prompt))
    assert (completion.finish_reason, completion.text) == ("refused", "")
    assert re.search(reason, completion.error)
    assert endpoint.seen()["counts"]["requests"] == 1


def test_trivial_requests_for_several_tell_that_denials_which_may_mean_all_are_of_rows(endpoint):
    endpoint.set(faults={"echo": 1}, spare_greetings=True)
    completions = ask(engine(endpoint), *[request(seed=seed) for seed in range(8)])
    assert {completion.finish_reason for completion in completions} == {"refused"}
    assert all("the key ***" in completion.error for completion in completions)
    assert endpoint.seen()["counts"]["requests"] < 8 + 8


def test_a_trivial_request_that_was_answered_says_nothing_of_a_later_denial(endpoint):
    async def ask_twice():
        made = engine(endpoint)
        endpoint.set(faults={"expired": 1}, spare_greetings=True)
        assert (await made.generate(request())).finish_reason == "refused"
        endpoint.set(faults={"expired": 1})
        await made.generate(request())

    with pytest.raises(GenerationError, match="API key expired"):
        asyncio.run(ask_twice())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("broken", "HTTP 500: Something broke, 2 times"),
        ("gateway", "HTTP 502: Bad Gateway (text/html), 2 times"),
        ("page", "an answer of another protocol"),
        ("cut", "no connection"),
        ("hang", "no answer in time, 2 times"),
    ],
)
def test_a_request_that_fails_every_time_is_that_rows_error(endpoint, fault, reason):
    endpoint.set(faults={fault: 1}, spare_greetings=True)
    (completion,) = ask(engine(endpoint, retries=1, timeout_s=0.4), request())
    assert (completion.finish_reason, completion.text) == ("error", "")
    assert reason in completion.error
    assert endpoint.seen()["counts"][fault] == 2


def test_faults_here_and_there_cost_no_row(endpoint):
    faults = {"busy": 0.2, "busy_until": 0.15, "broken": 0.04, "gateway": 0.03}
    faults |= {"page": 0.03, "cut": 0.04, "hang": 0.03}
    endpoint.set(faults=faults, retry_after=0.1, latency_s=0.01)
    requests = [request(seed=seed) for seed in range(30)]
    completions = ask(engine(endpoint, timeout_s=0.4, retries=12), *requests)
    assert completions == [replace(replayed(r), mean_logprob=None) for r in requests]
    counts = endpoint.seen()["counts"]
    assert counts["requests"] > 45
    assert sum(fault in counts for fault in faults) >= 5, counts


def test_no_more_in_flight_than_asked_for(endpoint):
    endpoint.set(latency_s=0.05)
    ask(engine(endpoint, concurrency=4), *[request(seed=seed) for seed in range(20)])
    assert endpoint.seen()["counts"]["most_in_flight"] == 4


def test_the_clients_own_limit_of_connections_holds_none_back(endpoint, monkeypatch):
    few = type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=2)  # its 1,000 take long to reach
    monkeypatch.setattr("openai._base_client.DEFAULT_CONNECTION_LIMITS", few)
    endpoint.set(latency_s=0.3)
    ask(engine(endpoint, concurrency=8), *[request(seed=seed) for seed in range(8)])
    assert endpoint.seen()["counts"]["most_in_flight"] == 8


def test_requests_a_minute_are_kept_to(endpoint):
    began = time.monotonic()
    made = engine(endpoint, requests_per_minute=600)  # ten a second, and ten at once
    ask(made, *[request(seed=seed) for seed in range(25)])
    assert 1.3 < time.monotonic() - began < 3


def test_tokens_a_minute_are_kept_to(endpoint):
    made = engine(endpoint, tokens_per_minute=60_000, concurrency=1)  # 518 are reckoned each
    began = time.monotonic()
    ask(made, *[request(seed=seed) for seed in range(8)])
    assert time.monotonic() - began < 2  # but hardly a tenth of them used


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"quota": 1}, "exceeded your current quota"),
        ({"revoked": 1}, r"refused the key in RAY_SI_TEST_KEY \(HTTP 401\)"),
        ({"expired": 1}, "HTTP 400: API key expired"),
        ({"broken": 1}, "Something broke.*outage_s"),
        ({"busy": 1}, "Too many requests.*outage_s"),
    ],
)
def test_an_endpoint_that_fails_for_all_stops_the_run(endpoint, faults, message):
    endpoint.set(faults=faults)
    made = engine(endpoint, retries=0, outage_s=1.0)
    with pytest.raises(GenerationError, match=message) as caught:
        ask(made, request())
    assert "what is finished is kept" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("fault", ["revoked", "credit", "quota"])
def test_a_denied_account_stops_the_run_though_shorter_requests_are_answered(endpoint, fault):
    endpoint.set(faults={fault: 1}, spare_greetings=True)
    with pytest.raises(GenerationError, match=r"HTTP 4(01|02|29)"):
        ask(engine(endpoint, retries=1), request())


def test_an_account_that_is_denied_here_and_there_costs_no_row(endpoint):
    endpoint.set(faults={"revoked": 0.2, "quota": 0.2})  # of a gateway's many, some are spent
    requests = [request(seed=seed) for seed in range(8)]
    completions = ask(engine(endpoint, retries=12), *requests)
    assert {completion.finish_reason for completion in completions} == {"stop"}


def test_a_trivial_request_that_was_given_up_says_nothing(endpoint, monkeypatch):
    endpoint.set(faults={"expired": 1})

    async def ask_two():
        made = engine(endpoint)
        asked, look = asyncio.Event(), made._probe

        async def never(request):
            monkeypatch.setattr(made, "_probe", look)
            asked.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(made, "_probe", never)
        first = asyncio.create_task(made.generate(request()))
        await asked.wait()
        second = asyncio.create_task(made.generate(request()))
        await asyncio.sleep(0.2)  # it waits for what the first learns
        first.cancel()
        try:
            await second
        finally:
            await made.aclose()

    with pytest.raises(GenerationError, match="API key expired"):
        asyncio.run(ask_two())


def test_an_endpoint_whose_model_thinks_longer_than_it_is_probed_is_none_that_fails(endpoint):
    endpoint.set(faults={"broken": 1}, spare_greetings=True, thinks=100)
    (completion,) = ask(engine(endpoint, retries=0), request())
    assert completion.finish_reason == "error"


def test_a_wait_longer_than_patience_stops_the_run_at_once(endpoint):
    endpoint.set(faults={"busy_until": 1}, retry_after=3600)
    began = time.monotonic()
    with pytest.raises(GenerationError, match="outage_s"):
        ask(engine(endpoint), request())
    assert time.monotonic() - began < 5


def test_an_outage_that_ends_in_time_costs_nothing(endpoint):
    endpoint.set(faults={"broken": 1})

    async def ask_meanwhile():
        answer = asyncio.create_task(engine(endpoint, retries=1, outage_s=30).generate(request()))
        await asyncio.sleep(2)
        await asyncio.to_thread(endpoint.set)
        return await answer

    assert asyncio.run(ask_meanwhile()).finish_reason == "stop"


def test_tries_are_no_further_apart_after_a_thousand_failures_than_after_ten(endpoint, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    made = engine(endpoint)
    for failures in (10, 2000):
        asyncio.run(made._back_off(failures))
    assert all(4 <= seconds <= 8 for seconds in slept)


# Before a run ------------------------------------------------------------------------------------


def trial(made, *requests):
    asyncio.run(made.trial(requests or [request(), labelling("completion")]))


def test_a_trial_asks_for_few_tokens_of_each_kind(endpoint):
    trial(engine(endpoint))
    assert [body["max_tokens"] for body in endpoint.seen()["bodies"]] == [16, 16]


def test_a_model_that_thinks_longer_than_a_trial_lasts_passes_it(endpoint):
    endpoint.set(thinks=100)
    trial(engine(endpoint), request(CHAT), request())


@pytest.mark.parametrize(
    "faults", [{"busy": 1}, {"busy_until": 1}, {"broken": 0.3}], ids=["busy", "until", "broken"]
)
def test_a_busy_endpoint_passes_the_trial(endpoint, faults):
    endpoint.set(faults=faults, seed=1)
    trial(engine(endpoint))


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"no_logprobs": True}, {}, "set classification.method to text"),
        ({"lacks": "seed"}, {}, "Unsupported parameter: 'seed'.*generator.openai.omit"),
        ({"lacks": "completion"}, {}, "set generator.prompt_style to chat"),
        ({"context": 10}, {}, "maximum context"),
        ({"faults": {"broken": 1}}, {}, "HTTP 500: Something broke"),
        ({"faults": {"quota": 1}}, {}, "quota"),
        ({}, {"api_key_env": "RAY_SI_WRONG_KEY"}, r"refused the key in RAY_SI_WRONG_KEY"),
        ({}, {"api_key_env": None}, "refused|wants a key: set generator.openai.api_key_env"),
        ({}, {"base_url": "http://127.0.0.1:9/v1"}, "no connection.*is the endpoint up|base_url"),
        ({}, {"base_url": "{host}/site/v1"}, "another protocol.*base_url right"),
        ({}, {"base_url": "{host}"}, "base_url right\\? Most end in /v1"),
    ],
)
def test_what_denies_every_request_is_said_before_a_run(
    endpoint, monkeypatch, settings, options, message
):
    monkeypatch.setenv("RAY_SI_WRONG_KEY", "sk-wrong")
    endpoint.set(**settings)
    options = {k: v and v.format(host=endpoint.host) for k, v in options.items()}
    with pytest.raises(EngineError, match=message) as caught:
        trial(engine(endpoint, **options))
    assert "\n" not in str(caught.value)
    assert "sk-wrong" not in str(caught.value)


def test_an_unknown_model_is_named_with_those_there_are(endpoint):
    made = OpenAIEngine("gpt-9", base_url=endpoint.url, api_key_env="RAY_SI_TEST_KEY")
    with pytest.raises(EngineError, match="`gpt-9` does not exist; its models are: replay-1, repl"):
        trial(made)


def test_log_probabilities_that_an_endpoint_refuses_are_said_by_its_own_words(endpoint):
    endpoint.set(lacks="logprobs")
    asked = replace(request(CHAT), purpose="answer")
    with pytest.raises(EngineError, match=r"request logprobs.*openai\.omit leaves"):
        trial(engine(endpoint), asked)
    trial(engine(endpoint, omit=("logprobs",)), asked)
    with pytest.raises(EngineError, match=r"classification\.method text"):
        trial(engine(endpoint, omit=("logprobs",)), labelling("chat"))


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EngineError, match="variable OPENAI_API_KEY holds no key"):
        OpenAIEngine("gpt-9")
