"""Between text and tokens: prompts through a model's chat template, and what it wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from ray_si.engines.base import Request
from ray_si.errors import EngineError
from ray_si.records import Message

_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Where a model's folder may hold its template."""

_MISTRALS = "tekken.json"
"""Mistral's own tokenizer, which has the template built in."""

_SWITCHES = {"enable_thinking": False, "thinking": False}
"""Arguments by which templates let a model answer at once: Qwen, SmolLM; DeepSeek, Granite."""

_WITHOUT_SYSTEM = {
    "instructions": "leave bootstrap.topics out, or ",
    "input": "set instances.inputs to asked, or ",
}
"""What makes prompts do without a system turn, which templates such as Gemma's refuse."""

_WRITTEN_HERE = "\ue000"
"""Stands where the open turn of a prompt ends: of private use, so that no template changes it."""

_OPEN_THOUGHT = re.compile(r"[<\[◁|]+[\w:]*think[\w:]*[>\]▷|]+\s*$", re.IGNORECASE)

_AROUND = re.compile(r"think|thought|<\|(?:channel|message)\|>", re.IGNORECASE)


def encode(tokenizer: Any, request: Request, arguments: Mapping[str, Any]) -> list[int]:
    """The tokens of a prompt; ``arguments`` are those of the chat template.

    Raises EngineError where the template refuses the turns, and where labels are to be scored and
    the model thinks before it answers.
    """
    if isinstance(request.prompt, str):
        return list(tokenizer(request.prompt)["input_ids"])
    render = _render_open if request.continue_final_message else _render
    try:
        text = render(tokenizer, request.prompt, arguments)
    except TemplateError as error:  # it has no place for such a role, or order of them
        has_system = any(turn["role"] == "system" for turn in request.prompt)
        instead = _WITHOUT_SYSTEM.get(request.purpose, "") if has_system else ""
        raise EngineError(
            f"the model's chat template refuses the turns of prompts for {request.purpose} "
            f"({error}): {instead}name another model"
        ) from error
    if request.labels and _thinks_first(tokenizer, request.prompt, arguments, text):
        raise EngineError(
            "the model's chat template lets it think before it answers, so labels cannot be "
            "scored: set generator.chat_template_kwargs to {enable_thinking: false} or as the "
            "model has it, or classification.method to text and reasoning.expected to true"
        )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of tokens, without special ones but those that stand around a thought.

    Some models ([THINK], <|channel|>) have these as special tokens; without them a thought could
    not be told from the answer.
    """
    around = around_thoughts(tokenizer)
    if around.isdisjoint(tokens):
        return str(tokenizer.decode(tokens, skip_special_tokens=True))
    dropped = _special(tokenizer) - around
    kept = [token for token in tokens if token not in dropped]
    return str(tokenizer.decode(kept, skip_special_tokens=False))


def with_opening(tokenizer: Any, request: Request, arguments: Mapping[str, Any], text: str) -> str:
    """What was written, behind the tag of the thought that its prompt opens, if it opens one.

    Without that tag a thought that was cut could not be told from an answer.
    """
    if isinstance(request.prompt, str) or request.continue_final_message:
        return text
    if "think" not in str(getattr(tokenizer, "chat_template", "")).lower():
        return text
    opening = _opening_of_open_thought(_render(tokenizer, request.prompt, arguments))
    return text if text.lstrip().startswith(opening) else f"{opening}\n{text}"


def around_thoughts(tokenizer: Any) -> frozenset[int]:
    """Special tokens that stand around a thought; empty where tags are plain text."""
    return frozenset(
        token
        for token in _special(tokenizer)
        if _AROUND.search(str(tokenizer.convert_ids_to_tokens(token)))
    )


def _special(tokenizer: Any) -> set[int]:
    """All that decoding leaves out: tokens with a role (end of text), and those marked so."""
    special = set(tokenizer.all_special_ids)
    with suppress(NotImplementedError):  # Mistral's own tokenizer, which names all of them
        added = tokenizer.added_tokens_decoder
        special |= {number for number, token in added.items() if token.special}
    return special


def check_turns(folder: Path, requests: Sequence[Request]) -> None:
    """Raise EngineError where a model without a chat template is asked in turns.

    As far as the model's files are in the folder already.
    """
    if all(isinstance(request.prompt, str) for request in requests):
        return
    *templates, tokenizer = (folder / name for name in _FILES)
    if not tokenizer.is_file() or any(path.is_file() for path in (*templates, folder / _MISTRALS)):
        return
    if "chat_template" not in tokenizer.read_text("utf-8"):
        raise EngineError(
            "the model has no chat template: set generator.prompt_style to completion (and "
            "instances.prompt_style, where it is set), or name an instruct model"
        )


def check_rendering(
    folder: Path,
    requests: Sequence[Request],
    arguments: Mapping[str, Any],
    trust_remote_code: bool = False,
) -> None:
    """Raise what `encode` would, as far as the model's files are in the folder already."""
    chats = [request for request in requests if not isinstance(request.prompt, str)]
    telling = ["raise_exception", *(["think"] if any(chat.labels for chat in chats) else [])]
    texts = [path.read_text("utf-8") for name in _FILES if (path := folder / name).is_file()]
    if chats and any(word in text for word in telling for text in texts):
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError):  # which the engine tells, once all its files are there
            return
        for request in chats:
            encode(tokenizer, request, arguments)


def closing_of_open_thought(rendered: str) -> str:
    """The tag that would close the thought which a rendered prompt leaves open; "" for others."""
    return re.sub(r"^([<\[◁]+)", r"\1/", _opening_of_open_thought(rendered))


def _opening_of_open_thought(rendered: str) -> str:
    opening = _OPEN_THOUGHT.search(rendered)
    return opening[0].strip() if opening else ""


def _thinks_first(
    tokenizer: Any, turns: list[Message], arguments: Mapping[str, Any], rendered: str
) -> bool:
    """Whether a rendered prompt leaves a thought open, or would be another without thinking."""
    if "think" not in str(tokenizer.chat_template):
        return False
    at_once = _render(tokenizer, turns, {**arguments, **_SWITCHES})
    return rendered != at_once or bool(closing_of_open_thought(rendered))


def _render_open(tokenizer: Any, turns: list[Message], arguments: Mapping[str, Any]) -> str:
    """The turns without what ends the last; transformers' own way needs a text in that turn."""
    last = {**turns[-1], "content": turns[-1]["content"] + _WRITTEN_HERE}
    text: str = tokenizer.apply_chat_template(
        [*turns[:-1], last], add_generation_prompt=False, tokenize=False, **arguments
    )
    return text[: text.rindex(_WRITTEN_HERE)]


def _render(tokenizer: Any, turns: list[Message], arguments: Mapping[str, Any]) -> str:
    text: str = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=False, **arguments
    )
    return text
