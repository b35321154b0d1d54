"""The contract between the pipeline and whatever writes text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from ray_si.records import Prompt

Purpose = Literal[
    "instructions", "joint", "classification", "input_first", "output_first", "input", "answer"
]
"""What a request is for; also the keys of ``generator.sampling`` in the configuration."""

_NAN = (
    "the model computes NaN (not a number): with generator.dtype float16, take bfloat16 or float32"
)


@dataclass(frozen=True)
class SamplingParams:
    """How one completion is drawn.

    ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch those filters off;
    ``presence_penalty`` is subtracted once from the logit of every token already generated.
    ``stop`` strings end the completion and are not part of its text.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt. With ``labels`` the engine scores these continuations instead of writing.

    With ``continue_final_message`` the last chat turn is left open, whoever's it is: the completion
    goes on with its text.
    """

    prompt: Prompt
    sampling: SamplingParams
    seed: int
    purpose: Purpose = "instructions"
    labels: tuple[str, ...] = ()
    continue_final_message: bool = False


@dataclass(frozen=True)
class Completion:
    """What came back.

    ``finish_reason`` is "stop", "length", "error" or "refused"; with the last two, ``error`` says
    what and ``text`` is "". "error" is a failure that a resumed build tries again; "refused" is an
    answer, that this request can have none: too long a prompt, a content filter, a model that
    declines. Lone surrogates, which JSON lets through and nothing can store, become U+FFFD in both.
    What the model thought before it answered is part of the text, in tags.
    ``label_logprobs`` are natural log-probabilities in the order of ``Request.labels``;
    ``label_tokens`` are the tokens of each, where the engine counts them. ``mean_logprob`` is the
    mean log-probability a generated token, where the engine knows it. ``reward`` is what a reward
    model gives, which writes nothing. Where any of these is NaN, the model computed nothing, as one
    in float16 may whose numbers are too large for it, and the completion is an "error".
    """

    text: str
    finish_reason: Literal["stop", "length", "error", "refused"]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    label_logprobs: tuple[float, ...] | None = None
    mean_logprob: float | None = None
    error: str | None = None
    label_tokens: tuple[int, ...] | None = None
    reward: float | None = None

    def __post_init__(self) -> None:
        numbers = self.mean_logprob, self.reward, *(self.label_logprobs or ())
        if any(number is not None and math.isnan(number) for number in numbers):
            nothing = dict.fromkeys(("mean_logprob", "reward", "label_logprobs", "label_tokens"))
            failed = nothing | {"text": "", "finish_reason": "error", "error": _NAN}
            for name, value in failed.items():
                object.__setattr__(self, name, value)
        object.__setattr__(self, "text", storable(self.text))
        object.__setattr__(self, "error", self.error and storable(self.error))


def storable(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which no file and no log can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def with_thought(thought: str, answer: str) -> str:
    """A completion as models write it, in tags, whose thought an endpoint gave apart.

    Without an answer the thought is left open: it took all the tokens there were.
    """
    if not thought.strip():
        return answer
    opened = f"<think>\n{thought.strip()}\n"
    return f"{opened}</think>\n\n{answer}" if answer.strip() else opened


def too_long(prompt_tokens: int, sampling: SamplingParams, context: int) -> Completion | None:
    """The refusal of a request that does not fit into the model's context; None for others."""
    longest = prompt_tokens + sampling.max_tokens
    if longest <= context:
        return None
    error = f"{longest} prompt and completion tokens exceed the context of {context}"
    return Completion("", "refused", prompt_tokens=prompt_tokens, error=error)


class EngineDiedError(Exception):
    """An engine that will answer nothing any more; its message is the last thing that it said."""


class Engine(Protocol):
    """Writes completions; called concurrently from one event loop.

    A request that cannot be answered comes back as a Completion with finish_reason "error" or
    "refused". A `RaySIError` ends the work, for good (an endpoint that denies access, say);
    `EngineDiedError` asks for another process in this one's place; what else `generate` raises is
    taken for a passing trouble, and the request is made again. ``slots``
    requests are answered at a time; ``capacity`` is how many the engine can make use of, more than
    that where it sorts those that wait into batches.
    """

    slots: int
    capacity: int

    async def generate(self, request: Request) -> Completion: ...

    def check_health(self) -> None:
        """Raise when this process has to be replaced, hung as well as dead; called now and then."""

    def mark(self) -> object:
        """What changes with every step that the engine takes; None where no steps are seen."""

    def close(self) -> None:
        """End what the engine started beside this process; it is asked nothing after that."""
