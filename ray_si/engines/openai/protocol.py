"""Requests and completions as the OpenAI protocol has them: plain values, no network.

For hosted endpoints and for vLLM, whose answers have the same attributes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ray_si.engines.base import Completion, Request, with_thought
from ray_si.engines.openai.message import finish_of, text_of, thought_of, value_of

_MOST_STOPS = 4
"""Stop strings that OpenAI's own endpoint takes; further ones are looked for here."""

_ALTERNATIVES = {"text": 5, "chat": 20}
"""Likeliest tokens that OpenAI's own endpoint tells at most."""

_OPENINGS = ("<think", "[think", "◁think", "<|channel|>")
"""Tokens with which thoughts begin where the endpoint leaves them in the text."""

_BYTES_PER_TOKEN = 4
"""Of English text, roughly, where nothing better is known."""


def is_chat(request: Request) -> bool:
    """Whether the request goes to /chat/completions rather than to /completions."""
    return not isinstance(request.prompt, str)


def body_of(request: Request, model: str, omit: Collection[str] = ()) -> dict[str, Any]:
    """The JSON of a request, without the parameters that are in ``omit`` or say nothing.

    ``top_k`` is not OpenAI's own; most other endpoints know it.
    """
    sampling = request.sampling
    parameters: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampling.top_p < 1 else None,
        "top_k": sampling.top_k or None,
        "presence_penalty": sampling.presence_penalty or None,
        "stop": list(sampling.stop[:_MOST_STOPS]) or None,
        "seed": request.seed,
        "logprobs": _logprobs(request),
    }
    body = {name: value for name, value in parameters.items() if value is not None}
    body = {name: value for name, value in body.items() if name not in omit}
    body |= {"model": model, "max_tokens": sampling.max_tokens}
    if is_chat(request):
        body["messages"] = request.prompt
        if request.labels:
            body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES["chat"]}
    else:
        body["prompt"] = request.prompt
        if request.labels:
            body["logprobs"] = _ALTERNATIVES["text"]
    return body


def _logprobs(request: Request) -> bool | int | None:
    """What asks for the log-probability of what is written: of answers, which it chooses among."""
    if request.purpose != "answer":
        return None
    return True if is_chat(request) else 1


def read_answer(request: Request, answer: Any) -> Completion:
    """The completion of a /completions or /chat/completions answer.

    finish_reason is "refused", with the reason, where a filter or the model itself declined to
    write. A thought that the endpoint gives apart precedes the text in tags. Token counts are
    estimates where the answer has none. Raises ValueError where it is no such answer, EndedInError
    where it says that it failed.
    """
    try:
        choice = answer.choices[0]
        message = choice.message if is_chat(request) else None
        text = text_of(message.content if message else choice.text)
        finish_reason, declined = finish_of(choice.finish_reason)
    except (AttributeError, TypeError, IndexError) as error:
        raise ValueError("the answer has no choices") from error
    thought = thought_of(message or choice)
    usage = getattr(answer, "usage", None)
    empty = Completion(
        "",
        "refused",
        prompt_tokens=getattr(usage, "prompt_tokens", None) or estimate_tokens(request),
        completion_tokens=getattr(usage, "completion_tokens", None) or _tokens(thought + text),
    )
    if declined:
        return replace(empty, error=declined)
    if refusal := getattr(message, "refusal", None):
        return replace(empty, error=f"refused: {refusal}")
    if request.labels and not thinks_first(request, answer):
        scores = label_logprobs(first_alternatives(choice), request.labels)
        if scores:
            best = request.labels[scores.index(max(scores))]
            return replace(empty, text=best, finish_reason="stop", label_logprobs=scores)
    ends = [text.find(stop) for stop in request.sampling.stop if stop in text]
    if ends:
        text, finish_reason = text[: min(ends)], "stop"
    return replace(
        empty,
        text=with_thought(thought, text),
        finish_reason=finish_reason,
        mean_logprob=None if ends else mean_logprob(choice),
    )


def cut_off(request: Request) -> Any:
    """The answer of a model that wrote nothing with all the tokens that it might use."""
    return SimpleNamespace(
        choices=[SimpleNamespace(message=None, text="", finish_reason="length")],
        usage=SimpleNamespace(completion_tokens=request.sampling.max_tokens),
    )


def mean_logprob(choice: Any) -> float | None:
    """The mean log-probability of a choice's tokens; None where the endpoint gives none."""
    logprobs = value_of(choice, "logprobs")
    content = value_of(logprobs, "content")
    if content:
        values = [value_of(item, "logprob") for item in content]
    else:
        values = value_of(logprobs, "token_logprobs") or []
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def thinks_first(request: Request, answer: Any) -> bool:
    """Whether the model thinks before it answers, so that its first tokens are no label."""
    choice = answer.choices[0]
    first = first_alternatives(choice)
    likeliest = max(first, key=first.__getitem__) if first else ""
    thought = thought_of(choice.message if is_chat(request) else choice)
    return bool(thought.strip()) or likeliest.strip().lower().startswith(_OPENINGS)


def first_alternatives(choice: Any) -> dict[str, float]:
    """Log-probabilities of the likeliest first tokens of a choice; empty where it has none."""
    logprobs = value_of(choice, "logprobs")
    content = value_of(logprobs, "content")
    if content:  # of chats; llama.cpp answers like this in both places
        items = value_of(content[0], "top_logprobs") or ()
        listed = {value_of(item, "token"): value_of(item, "logprob") for item in items}
    else:
        listed = (value_of(logprobs, "top_logprobs") or ({},))[0] or {}
    return {token: value for token, value in listed.items() if None not in (token, value)}


def label_logprobs(first: Mapping[str, float], labels: Sequence[str]) -> tuple[float, ...] | None:
    """Log-probability of each label's beginning among the likeliest first tokens.

    A token counts for the one label that it begins, or that it is with punctuation or spaces
    around, whatever its case. A label that isn't there gets the lowest log-probability that is, an
    upper bound of its own; None where no label is there.
    """
    scores: list[float | None] = []
    for label in labels:
        others = [other for other in labels if other != label]
        shares = [
            math.exp(logprob)
            for token, logprob in first.items()
            if _fits(token, label) and not any(_fits(token, other) for other in others)
        ]
        scores.append(math.log(sum(shares)) if sum(shares) else None)
    if all(score is None for score in scores):
        return None
    floor = min(first.values())
    return tuple(floor if score is None else score for score in scores)


def estimate_tokens(request: Request) -> int:
    """Tokens of a request's prompt, without a tokenizer."""
    prompt = request.prompt
    texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
    return sum(map(_tokens, texts))


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def _fits(token: str, label: str) -> bool:
    token, label = token.strip().casefold(), label.strip().casefold()
    if token.startswith(label):
        return not token[len(label) : len(label) + 1].isalnum()
    return bool(token) and label.startswith(token)
