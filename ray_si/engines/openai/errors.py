"""What went wrong with a request to an endpoint, and whose fault it was."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import openai

from ray_si.engines.openai.message import EndedInError

_LONGEST = 300
"""Characters of an endpoint's message that are kept."""

_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "credit_balance_exhausted"}

_THIS_REQUEST = {"context_length_exceeded", "content_filter", "invalid_prompt"}
"""Codes of what cannot be meant of all requests, as most that is said with 400 can: some endpoints
say so that a key has expired or a credit is used up."""

Kind = Literal["busy", "failed", "request", "endpoint", "account"]


@dataclass(frozen=True)
class Failure:
    """One failed try.

    ``kind`` says what helps: "busy": asking again later, when the endpoint has said or more slowly;
    "failed": asking again; "request": nothing, for this request; "endpoint": nothing, perhaps for
    any request, until the endpoint's address, key or model is put right; "account": nothing, until
    the key or the credit is, though requests of fewer tokens may still be answered.
    """

    kind: Kind
    reason: str
    status: int | None = None
    retry_after: float | None = None


def failure_of(error: Exception) -> Failure:
    """The failure that an exception of the client stands for."""
    if isinstance(error, (openai.APITimeoutError, asyncio.TimeoutError)):
        return Failure("failed", "no answer in time")
    if isinstance(error, openai.APIStatusError):
        return _refusal(error)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return Failure("failed", f"no connection ({str(cause) or type(cause).__name__})")
    if isinstance(error, EndedInError):
        return Failure("failed", str(error))
    # no JSON, or JSON of something else: a gateway's page, or another protocol
    return Failure("failed", f"an answer of another protocol ({_line(str(error))})")


def _refusal(error: openai.APIStatusError) -> Failure:
    status, headers = error.status_code, error.response.headers
    said = {"status": status, "retry_after": retry_after(headers, time.time())}
    reason = f"HTTP {status}: {_message(error)}"
    if status in (401, 402) or error.code in _QUOTA:
        return Failure("account", reason, status)
    if status == 429 or (status in (503, 529) and said["retry_after"] is not None):
        return Failure("busy", reason, **said)  # type: ignore[arg-type]
    if status >= 500 or status in (408, 409, 425):
        return Failure("failed", reason, status)
    if status == 413 or error.code in _THIS_REQUEST:
        return Failure("request", reason, status)
    return Failure("endpoint", reason, status)


def spent_on_thought(error: openai.BadRequestError) -> bool:
    """Whether a model thought until it had no token left, which OpenAI's say with status 400."""
    return "model output limit was reached" in str(error)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by Retry-After, in seconds or as a date, or by OpenAI's milliseconds.

    ``now`` in seconds since 1970. None where there is no such header, or none that makes sense.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return max(0.0, wait) if wait < float("inf") else None
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return max(0.0, email.utils.mktime_tz(date) - now) if date else None


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        said = body.get("message") or body.get("detail") or body.get("error")
        if isinstance(said, str):
            return _line(said)
    kind = error.response.headers.get("content-type", "").partition(";")[0]
    if kind and not kind.endswith("json"):
        return f"{error.response.reason_phrase} ({kind})"
    return _line(str(body or error.response.reason_phrase))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
