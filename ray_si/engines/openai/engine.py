"""Text from an OpenAI-compatible endpoint, hosted or one's own, through the official client."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import openai
from openai import DEFAULT_CONNECTION_LIMITS, AsyncOpenAI, DefaultAsyncHttpxClient

from ray_si.engines.base import Completion, Request
from ray_si.engines.openai.errors import Failure, failure_of, spent_on_thought
from ray_si.engines.openai.pacing import Pacer, Ticket
from ray_si.engines.openai.protocol import (
    body_of,
    cut_off,
    estimate_tokens,
    first_alternatives,
    is_chat,
    read_answer,
    thinks_first,
)
from ray_si.errors import EngineError, GenerationError

_DOUBLINGS = 4
"""At most, of the half second between tries: however long an endpoint is away."""

_TRIAL_TIMEOUT_S = 30.0

_FEW_TOKENS = 16
"""Of an answer that only shows that there is one; some endpoints give none for fewer."""


class OpenAIEngine:
    """Asks an endpoint, as fast as it and the configured limits allow; see `Pacer`.

    Completion-style prompts go to /completions, chats to /chat/completions. A refusal for now (429,
    or 503 with Retry-After) costs a request nothing but time. Server errors, lost connections and
    timeouts are tried ``retries`` times more. When those are used up, or a request is denied in
    words that may mean all of them (400, 403, 404), a trivial request tells whether it is this one
    that cannot be answered, which makes it a Completion with finish_reason "error" (or "refused",
    where asking again would change nothing), or the endpoint. An endpoint that fails everything for
    ``outage_s`` seconds, or denies all, raises GenerationError, and so does one that denies a
    request for the key (401) or for credit (402, a spent quota) ``retries`` times more.

    The key is read from the environment variable ``api_key_env`` of the process that asks.
    ``omit`` are parameters that the endpoint doesn't take, ``extra_body`` further ones;
    ``chat_template_kwargs`` are sent to servers that render a template themselves (vLLM, SGLang).
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: int = 32,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout_s: float = 120.0,
        retries: int = 5,
        outage_s: float = 600.0,
        omit: Sequence[str] = (),
        extra_body: dict[str, Any] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._model, self._url, self._key_env = model, base_url, api_key_env
        self._key = os.environ.get(api_key_env, "") if api_key_env else "none"
        if not self._key:
            raise EngineError(
                f"the environment variable {api_key_env} holds no key for {base_url}: set it, on "
                "every node of a cluster, or set generator.openai.api_key_env to the one that "
                "does, or to null where no key is needed"
            )
        self._client = AsyncOpenAI(
            api_key=self._key,
            base_url=base_url,
            timeout=timeout_s,
            max_retries=0,
            # as many connections as the pacer lets go, where the client's own limit is 1,000
            http_client=DefaultAsyncHttpxClient(limits=type(DEFAULT_CONNECTION_LIMITS)()),
        )
        self.slots = self.capacity = concurrency
        self._pacer = Pacer(concurrency, requests_per_minute, tokens_per_minute)
        self._timeout_s, self._retries, self._outage_s = timeout_s, retries, outage_s
        self._omit, self._extra = omit, extra_body or {}
        if chat_template_kwargs:
            self._extra = {"chat_template_kwargs": chat_template_kwargs} | self._extra
        self._length_parameter = "max_tokens"
        self._line, self._room = asyncio.Lock(), asyncio.Event()
        self._probing = asyncio.Lock()
        self._probe_began = float("-inf")
        self._probed: Failure | None = None
        self._last_answer = float("-inf")
        self._jitter = random.Random()

    async def generate(self, request: Request) -> Completion:
        """Answer one request; see `Engine`. Raises GenerationError, see the class."""
        began: float | None = None
        failures = 0
        while True:
            ticket = await self._start(request)
            began = ticket.started if began is None else began
            result = await self._try(request, ticket)
            if isinstance(result, Completion) or result.kind == "request":
                self._last_answer = time.monotonic()
            if isinstance(result, Completion):
                return result
            if result.kind == "busy":  # the pacer waits
                self._give_up_after(result, began, result.retry_after or 0)
                continue
            if result.kind == "request":
                return Completion("", "refused", error=result.reason)
            failures += 1
            if result.kind in ("failed", "account") and failures <= self._retries:
                await self._back_off(failures)
                continue
            if result.kind == "account":  # a trivial request may still be answered
                self._stop(result)
            trouble = await self._trouble(request)
            if trouble is None:
                if result.kind == "endpoint":
                    return Completion("", "refused", error=result.reason)
                return Completion("", "error", error=f"{result.reason}, {failures} times")
            if trouble.kind != "failed":
                self._stop(trouble)
            self._give_up_after(trouble, began)
            await self._back_off(failures)

    def check_health(self) -> None:
        """Nothing here can break: an endpoint that fails is waited for."""

    def mark(self) -> None:
        """None: its steps are not seen."""

    async def trial(self, requests: Sequence[Request]) -> None:
        """Ask for a few tokens for each request; EngineError with what to do if one is denied.

        An endpoint that is merely busy passes. The engine is closed then.
        """
        try:
            await asyncio.gather(*map(self._try_out, requests))
        finally:
            await self.aclose()

    def close(self) -> None:
        """Nothing to end: connections go with the process."""

    async def aclose(self) -> None:
        """Close the connections, in the event loop that used them."""
        await self._client.close()

    async def _try_out(self, request: Request) -> None:
        for attempt in range(3):
            try:
                call = self._ask(_for_few_tokens(request))
                answer = await asyncio.wait_for(call, _TRIAL_TIMEOUT_S)
                read_answer(request, answer)
            except (openai.OpenAIError, asyncio.TimeoutError, ValueError) as error:
                failure = failure_of(error)
                if failure.kind == "busy":
                    return
                if failure.kind != "failed":
                    await self._deny(failure, request)
                if attempt < 2:
                    await self._back_off(attempt)
            else:
                if request.labels and thinks_first(request, answer):
                    raise EngineError(
                        f"{self._model} at {self._url} thinks before it answers, so labels cannot "
                        "be scored: set classification.method to text and reasoning.expected to "
                        "true, or switch thinking off by generator.chat_template_kwargs or "
                        "generator.openai.extra_body"
                    )
                if request.labels and not first_alternatives(answer.choices[0]):
                    raise EngineError(
                        f"{self._url} gives no log-probabilities of {self._model}, so labels "
                        "cannot be scored: set classification.method to text"
                    )
                return
        await self._deny(failure, request)

    async def _deny(self, failure: Failure, request: Request) -> NoReturn:
        hint = ""
        if failure.status == 404:
            hint = await self._suggest(request)
        elif failure.status in (400, 403, 413, 422):
            hint = "; generator.openai.omit leaves parameters out that an endpoint doesn't take"
            if failure.status != 403:
                hint += ", and shorter prompts come from fewer bootstrap.demonstrations"
            elif self._key_env:
                hint += f"; may the key in {self._key_env} use this model?"
            if request.labels:
                hint += "; classification.method text asks for no log-probabilities"
        elif failure.status is None:
            hint = "; is generator.openai.base_url right, and the endpoint up?"
        raise EngineError(self._describe(failure) + hint)

    async def _suggest(self, request: Request) -> str:
        """What may be meant by "not found"."""
        try:
            names = [model.id async for model in self._client.models.list()]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            return "; is generator.openai.base_url right? Most end in /v1"
        if self._model not in names:
            listed = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
            return f"; its models are: {listed}"
        other = "completion" if is_chat(request) else "chat"
        return f"; set generator.prompt_style to {other} if it only has that kind"

    def _describe(self, failure: Failure) -> str:
        if failure.status == 401:
            return (
                f"{self._url} refused the key in {self._key_env} (HTTP 401)"
                if self._key_env
                else f"{self._url} wants a key: set generator.openai.api_key_env"
            )
        return f"{self._url}, model {self._model}: {self._clean(failure.reason)}"

    # One try -----------------------------------------------------------------------------------

    async def _start(self, request: Request) -> Ticket:
        """Wait in line until the pacer lets the request go."""
        tokens = estimate_tokens(request) + request.sampling.max_tokens
        async with self._line:
            while (delay := self._pacer.delay(time.monotonic())) != 0:
                self._room.clear()
                with suppress(asyncio.TimeoutError):  # no delay: until a request ends
                    await asyncio.wait_for(self._room.wait(), delay)
            return self._pacer.start(time.monotonic(), tokens)

    async def _try(self, request: Request, ticket: Ticket) -> Completion | Failure:
        used: float | None = None
        refusal: Failure | None = None
        try:
            completion = read_answer(request, await self._ask(request))
            used = completion.prompt_tokens + completion.completion_tokens
        except (openai.OpenAIError, asyncio.TimeoutError, ValueError) as error:
            failure = failure_of(error)
            refusal = failure if failure.kind == "busy" else None
            return replace(failure, reason=self._clean(failure.reason))
        else:
            return completion
        finally:
            now = time.monotonic()
            if refusal:
                self._pacer.refused(now, ticket, refusal.retry_after)
            else:
                self._pacer.answered(now, ticket, used)
            self._room.set()

    async def _ask(self, request: Request) -> Any:
        """One HTTP request. Raises what the client raises, TimeoutError, ValueError."""
        body = body_of(request, self._model, self._omit)
        sent = self._length_parameter if is_chat(request) else "max_tokens"
        body[sent] = body.pop("max_tokens")
        known = {name: value for name, value in body.items() if name != "top_k"}
        extra = {name: body[name] for name in body.keys() - known.keys()} | self._extra
        resource = self._client.chat.completions if is_chat(request) else self._client.completions
        call = resource.create(**known, extra_body=extra)
        try:
            return await asyncio.wait_for(call, self._timeout_s)
        except openai.BadRequestError as error:
            if spent_on_thought(error):
                return cut_off(request)
            # chats with newer models of OpenAI's know the one name only, most others the other
            if is_chat(request) and sent == "max_tokens" and "max_completion_tokens" in str(error):
                self._length_parameter = "max_completion_tokens"
                return await self._ask(request)
            raise

    # When tries fail ---------------------------------------------------------------------------

    async def _back_off(self, failures: int) -> None:
        backoff = 0.5 * 2 ** min(failures, _DOUBLINGS)
        await asyncio.sleep(backoff * self._jitter.uniform(0.5, 1))

    def _stop(self, failure: Failure) -> NoReturn:
        raise GenerationError(f"{self._describe(failure)}; what is finished is kept")

    def _give_up_after(self, failure: Failure, began: float, wait: float = 0.0) -> None:
        """Raise GenerationError where the endpoint has answered nothing for too long."""
        silent = time.monotonic() - max(self._last_answer, began) + wait
        if silent > self._outage_s:
            raise GenerationError(
                f"{self._describe(failure)}; by then it will have answered nothing for "
                f"{silent:.0f} s (generator.openai.outage_s); what is finished is kept"
            )

    async def _trouble(self, request: Request) -> Failure | None:
        """How the endpoint fails a trivial request; None where it answers, or is merely busy.

        What one request learns holds for all that had failed before it asked.
        """
        failed = time.monotonic()
        async with self._probing:
            if failed >= self._probe_began:
                began = time.monotonic()
                self._probed = await self._probe(request)
                self._probe_began = began
            return self._probed

    async def _probe(self, request: Request) -> Failure | None:
        prompt = [{"role": "user", "content": "Hello"}] if is_chat(request) else "Hello"
        try:
            probe = _for_few_tokens(replace(request, prompt=prompt, labels=()))
            read_answer(probe, await self._ask(probe))
        except (openai.OpenAIError, asyncio.TimeoutError, ValueError) as error:
            failure = failure_of(error)
            return None if failure.kind == "busy" else failure
        self._last_answer = time.monotonic()
        return None

    def _clean(self, text: str) -> str:
        """The text without the key, should an endpoint repeat it: reasons are stored in the run."""
        return text.replace(self._key, "***") if self._key_env else text


def _for_few_tokens(request: Request) -> Request:
    return replace(request, sampling=replace(request.sampling, max_tokens=_FEW_TOKENS))
