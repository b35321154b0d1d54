"""Rows -> tokens, with the prompt's masked out of the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa

from ray_si.records import Prompt
from ray_si.training.config import Encoding, TrainingEncoding

TOKENS = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
    ]
)
"""A row as the trainer takes it; labels are `IGNORED` where no loss is taken."""

IGNORED = -100

_TEXT_END = "\n\n"


def as_prompt(text: str, encoding: Encoding) -> Prompt:
    """An instruction with its input, as it is put to a model."""
    return [{"role": "user", "content": text}] if encoding == "chat" else text + _TEXT_END


class Encoder:
    """Encodes rows for one tokenizer and counts what became of them.

    ``encoding`` is "chat", "text" or "varied". The prompt's tokens are exactly those that an engine
    makes of `as_prompt`, or of the prompt itself where that is varied already; the completion's
    follow, with the template's end of turn or the tokenizer's end of sequence. ``counts``: rows,
    kept, truncated, dropped (too long, or no room for any completion), tokens and completion_tokens
    (both of kept rows).
    """

    def __init__(
        self,
        tokenizer: Any,
        encoding: TrainingEncoding,
        *,
        max_length: int,
        too_long: Literal["drop", "truncate"],
    ) -> None:
        self._tokenizer, self._encoding = tokenizer, encoding
        self._max_length, self._too_long = max_length, too_long
        self.counts: Counter[str] = Counter(
            dict.fromkeys(
                ("rows", "kept", "truncated", "dropped", "tokens", "completion_tokens"), 0
            )
        )

    def encode(
        self, ids: Sequence[str], prompts: Sequence[str], completions: Sequence[str]
    ) -> pa.Table:
        """The kept rows, of schema `TOKENS`."""
        rows: dict[str, list[Any]] = {name: [] for name in TOKENS.names}
        pairs = zip(ids, *self._tokens(prompts, completions), strict=True)
        for id_, prompt, completion in pairs:
            self.counts["rows"] += 1
            excess = len(prompt) + len(completion) - self._max_length
            if excess > 0:
                if self._too_long == "drop" or excess >= len(completion):
                    self.counts["dropped"] += 1
                    continue
                self.counts["truncated"] += 1
                completion = completion[:-excess]
            self.counts["kept"] += 1
            self.counts["tokens"] += len(prompt) + len(completion)
            self.counts["completion_tokens"] += len(completion)
            rows["id"].append(id_)
            rows["input_ids"].append(prompt + completion)
            rows["labels"].append([IGNORED] * len(prompt) + completion)
        return pa.table(rows, TOKENS)

    def _tokens(
        self, prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of prompts and of completions."""
        if self._encoding != "chat":
            texts = list(prompts)
            if self._encoding == "text":
                texts = [str(as_prompt(prompt, "text")) for prompt in prompts]
            end = self._tokenizer.eos_token_id
            return self._ids(texts, special=True), [
                [*ids, end] for ids in self._ids(completions, special=False)
            ]
        opened, answers = [], []
        for prompt, completion in zip(prompts, completions, strict=True):
            turns = as_prompt(prompt, "chat")
            assert isinstance(turns, list)
            opened.append(self._render(turns, add_generation_prompt=True))
            whole = self._render([*turns, {"role": "assistant", "content": completion}])
            answers.append(_after(opened[-1], whole, completion))
        return self._ids(opened, special=False), self._ids(answers, special=False)

    def _render(self, turns: list[dict[str, str]], **options: Any) -> str:
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, **options)
        return text

    def _ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        token_ids = self._tokenizer(list(texts), add_special_tokens=special)["input_ids"]
        return [list(ids) for ids in token_ids]


def _after(opened: str, whole: str, completion: str) -> str:
    """What follows the opened prompt in the whole conversation: the completion, and its end.

    Some templates open the assistant's turn with more than they write in a finished one (an empty
    thought, say), or strip what they are given: then the completion's own place is looked for.
    """
    if whole.startswith(opened):
        return whole[len(opened) :]
    text = completion.strip()
    return whole[whole.rindex(text) :] if text and text in whole else completion
