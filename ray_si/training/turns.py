"""How a chat template writes an assistant's turn, found out with sentinels in place of texts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from ray_si.engines.chat_template import closing_of_open_thought
from ray_si.errors import EngineError, one_line
from ray_si.records import Message

_QUESTION, _ANSWER = "sentinelquestion7391", "sentinelanswer2846"
"""Words that no template holds, and that none alters by stripping or by taking thoughts out."""


@dataclass(frozen=True)
class Turn:
    """What a model writes after an opened prompt, around its answer.

    ``lead`` comes before the answer: the header of a channel, an empty thought, the close of a
    thought that the prompt opens. ``end`` comes after it, up to the first token that stops the
    model; without ``stops`` the template writes none, and the tokenizer's end of sequence follows.
    ``thought_end`` closes the thought of the turn, "" where it has none; with ``thought_is_open``
    the prompt has opened it.
    """

    lead: str
    end: str
    stops: bool
    thought_end: str = ""
    thought_is_open: bool = False

    def around(self, answer: str) -> tuple[str, str]:
        """The lead of an answer, and the answer as it follows; one with a thought has no lead."""
        if not self.thought_end or self.thought_end not in answer:
            return self.lead, answer
        if self.thought_is_open:
            answer = answer.lstrip().removeprefix(self.thought_end.replace("/", "", 1))
        return "", answer


def render(tokenizer: Any, conversations: list[list[Message]], **options: Any) -> list[str]:
    """Each conversation in the words of the tokenizer's chat template."""
    texts: list[str] = tokenizer.apply_chat_template(conversations, tokenize=False, **options)
    return texts


def assistant_turn(tokenizer: Any, stops: Collection[int]) -> Turn:
    """The turn of a tokenizer's chat template; ``stops`` are the tokens that stop its model.

    Raises EngineError where the template fails, loses the question or the answer, or writes a
    finished turn otherwise than it opens one.
    """
    asked: list[Message] = [{"role": "user", "content": _QUESTION}]
    answered = [*asked, {"role": "assistant", "content": _ANSWER}]
    try:
        (opened,) = render(tokenizer, [asked], add_generation_prompt=True)
        (whole,) = render(tokenizer, [answered])
    except TemplateError as error:
        raise _refusal(f"fails on a question and its answer: {one_line(error)}") from error
    if _QUESTION not in opened:
        raise _refusal("does not write the question that it is given")
    before, answer, after = whole.rpartition(_ANSWER)
    if not answer:
        raise _refusal("does not write the answer that it is given, or alters it")
    places = [
        after.index(text) + len(text)
        for text in map(tokenizer.convert_ids_to_tokens, stops)
        if text and text in after
    ]
    end = after[: min(places)] if places else after.rstrip()
    closing = closing_of_open_thought(opened)
    if before.startswith(opened):
        lead = before[len(opened) :]
        return Turn(lead, end, bool(places), closing or _closing_within(lead), bool(closing))
    if closing:
        return Turn(f"\n{closing}\n\n", end, bool(places), closing, True)
    if opened.startswith(before):  # the prompt opens more than a finished turn shows
        return Turn("", end, bool(places))
    raise _refusal("writes a finished turn otherwise than it opens one")


def _closing_within(lead: str) -> str:
    """The tag that closes the thought a lead begins with, "" where there is none."""
    opening, _, rest = lead.partition("\n")
    closing = closing_of_open_thought(opening)
    return closing if closing and closing in rest else ""


def _refusal(what: str) -> EngineError:
    return EngineError(f"the model's chat template {what}; set encoding to text")
