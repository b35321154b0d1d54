"""What a choice of an endpoint's answer says: its text, its thought, and how it ended.

Endpoints that call themselves compatible write these in several ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message with what the model thought: DeepSeek, vLLM, SGLang; OpenRouter; Ollama."""

_CUT_OFF = {"length", "max_tokens", "model_length", "max_length", "max_output_tokens"}
_DECLINED = {
    **dict.fromkeys(
        ("content_filter", "content_filtered", "safety", "sensitive", "recitation", "refusal"),
        "stopped by a content filter",
    ),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), "answered with a tool call"),
}
_FAILED = {"error", "abort", "cancelled", "network_error", "insufficient_system_resource"}


class EndedInError(ValueError):
    """An answer that broke off for a reason of the endpoint's; asking again may help."""


def finish_of(reason: object) -> tuple[Literal["stop", "length", "refused"], str | None]:
    """A finish reason as `Completion` has it, and why a request was declined.

    Raises EndedInError where the endpoint says that it failed.
    """
    name = str(reason or "stop").lower()
    if name in _FAILED:
        raise EndedInError(f"the endpoint ended its answer with {name!r}")
    if name in _DECLINED:
        return "refused", _DECLINED[name]
    return ("length" if name in _CUT_OFF else "stop"), None


def text_of(content: Any) -> str:
    """The text of a message, which is one or a list of parts; thoughts are none."""
    if isinstance(content, list | tuple):
        return "".join(text_of(part) for part in content if not _is_thought(part))
    if content is None or isinstance(content, str):
        return content or ""
    return text_of(value_of(content, "text") or value_of(content, "value"))


def thought_of(message: Any) -> str:
    """What the model thought, where the endpoint gives that apart; else ""."""
    for name in _THOUGHTS:
        if thought := value_of(message, name):
            return text_of(thought)
    content = value_of(message, "content")
    parts = content if isinstance(content, list | tuple) else ()
    return "".join(
        text_of(value_of(part, "thinking") or value_of(part, "reasoning") or value_of(part, "text"))
        for part in parts
        if _is_thought(part)
    )


def _is_thought(part: Any) -> bool:
    return value_of(part, "type") in ("thinking", "reasoning", "thought")


def value_of(item: Any, name: str) -> Any:
    """A field of a mapping or an object; None where there is none."""
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
