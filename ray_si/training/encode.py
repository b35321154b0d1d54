"""Rows -> tokens, with the prompt's masked out of the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ray_si.errors import EngineError
from ray_si.records import Message, Prompt
from ray_si.training.config import Encoding, TrainingEncoding
from ray_si.training.joint_tokens import JointTokenizer, Tokens
from ray_si.training.turns import Turn, assistant_turn, render

TOKENS = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
    ]
)
"""A row as the trainer takes it; labels are `IGNORED` where no loss is taken."""

IGNORED = -100

REFUSALS = {
    "control_token": "the answer spells a control token of the model",
    "inside_token": "the answer begins inside a token of its prompt",
    "no_end_token": "no token that stops the model ends the answer",
}
"""Why a row is not trained on, besides its length."""

_TEXT_END = "\n\n"

_BATCH = 1024
"""Rows that the tokenizer is given at once; its threads share them."""


def as_prompt(text: str, encoding: Encoding) -> Prompt:
    """An instruction with its input, as it is put to a model."""
    return [_question(text)] if encoding == "chat" else text + _TEXT_END


def _question(text: str) -> Message:
    return {"role": "user", "content": text}


class Encoder:
    """Encodes rows for one tokenizer and counts what became of them.

    ``encoding`` is "chat", "text" or "varied". A row is the tokens that an engine makes of its
    prompt (`as_prompt`, or the prompt itself where that is varied already), masked, and then the
    tokens of what the model is to write: its answer within the assistant's `Turn`, up to and with a
    token that stops the model. ``stops`` are those besides the tokenizer's end of sequence. Prompt
    and answer are tokenized as one text, since the tokens of an answer by itself may be others.

    ``counts``: rows, kept, truncated, dropped (too long, or no room for any answer), each of
    `REFUSALS`, tokens and completion_tokens (both of kept rows). A truncated row has no end.

    Raises EngineError for a tokenizer without an end of sequence, and what `assistant_turn` raises.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoding: TrainingEncoding,
        *,
        max_length: int,
        too_long: Literal["drop", "truncate"],
        stops: Collection[int] = (),
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise EngineError("the tokenizer has no end-of-sequence token, so no answer could end")
        self._tokenizer, self._encoding = tokenizer, encoding
        self._max_length, self._too_long = max_length, too_long
        self._stops = frozenset(stops) | {tokenizer.eos_token_id}
        self._turn = Turn("", "", False)
        if encoding == "chat":
            self._turn = assistant_turn(tokenizer, self._stops)
        self._joint = JointTokenizer(tokenizer, begin=encoding != "chat")
        self._control = _control_tokens(tokenizer)
        self._turn_control = {
            lead: self._controls(self._joint.tokenize([""], [f"{lead}x{self._turn.end}"])[0])
            for lead in {self._turn.lead, ""}
        }
        self.counts: Counter[str] = Counter(
            dict.fromkeys(
                ("rows", "kept", "truncated", "dropped", *REFUSALS, "tokens", "completion_tokens"),
                0,
            )
        )

    def encode(
        self, ids: Sequence[str], prompts: Sequence[str], completions: Sequence[str]
    ) -> pa.Table:
        """The kept rows, of schema `TOKENS`."""
        kept: list[str] = []
        parts: list[list[int]] = []  # prompt and learned tokens of each kept row, in turn
        batches = [slice(start, start + _BATCH) for start in range(0, len(ids), _BATCH)]
        turns = [self._turn.around(completion) for completion in completions]
        learned = [f"{lead}{answer}{self._turn.end}" for lead, answer in turns]

        def tokenize(part: slice) -> list[Tokens | None]:
            return self._joint.tokenize(self._opened(prompts[part]), learned[part])

        # of two batches one is in the tokenizer, outside of Python's lock
        with ThreadPoolExecutor(2) as tokenizing:
            tokenized = tokenizing.map(tokenize, batches)
            for id_, (lead, _), tokens in zip(
                ids, turns, chain.from_iterable(tokenized), strict=True
            ):
                result = self._judged(lead, tokens)
                if isinstance(result, str):
                    self.counts[result] += 1
                else:
                    kept.append(id_)
                    parts += result
        self.counts["rows"] += len(ids)
        self.counts["kept"] += len(kept)
        table = _table(kept, parts)
        self.counts["tokens"] += len(table["input_ids"].combine_chunks().flatten())
        self.counts["completion_tokens"] += sum(map(len, parts[1::2]))
        return table

    def _judged(self, lead: str, tokens: Tokens | None) -> Tokens | str:
        """Prompt and learned tokens of a row, or what counts why it is not kept."""
        if tokens is None:
            return "inside_token"
        if self._controls(tokens) > self._turn_control[lead]:
            return "control_token"
        prompt, learned = tokens
        if not self._turn.stops:
            learned.append(self._tokenizer.eos_token_id)
        elif not learned or learned[-1] not in self._stops:
            return "no_end_token"
        excess = len(prompt) + len(learned) - self._max_length
        if excess <= 0:
            return prompt, learned
        if self._too_long == "drop" or excess >= len(learned):
            return "dropped"
        self.counts["truncated"] += 1
        return prompt, learned[:-excess]

    def _opened(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as text, up to where the model goes on."""
        if self._encoding == "varied":
            return list(prompts)
        if self._encoding == "text":
            return [prompt + _TEXT_END for prompt in prompts]
        conversations = [[_question(prompt)] for prompt in prompts]
        return render(self._tokenizer, conversations, add_generation_prompt=True)

    def _controls(self, tokens: Tokens | None) -> int:
        """Control tokens among those that are learned."""
        assert tokens is not None
        if self._control.isdisjoint(tokens[1]):
            return 0
        return sum(map(self._control.__contains__, tokens[1]))


def _control_tokens(tokenizer: Any) -> frozenset[int]:
    """Tokens that no answer may spell, since they steer the model: the special ones.

    Without the unknown token, which stands for text, and those around thoughts.
    """
    added = tokenizer.added_tokens_decoder
    special = {id_ for id_, token in added.items() if token.special} | {*tokenizer.all_special_ids}
    return frozenset(
        id_
        for id_ in special - {tokenizer.unk_token_id}
        if "think" not in str(tokenizer.convert_ids_to_tokens(id_)).lower()
    )


def _table(ids: list[str], parts: list[list[int]]) -> pa.Table:
    """Rows of `TOKENS`: ``parts`` has the prompt's and the learned tokens of each id in turn."""
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    tokens = np.fromiter(chain.from_iterable(parts), np.int32, lengths.sum())
    learned = np.repeat(np.arange(len(parts)) % 2 == 1, lengths)
    starts = np.concatenate([[0], np.cumsum(lengths[::2] + lengths[1::2])]).astype(np.int32)
    columns = [
        pa.ListArray.from_arrays(starts, values)
        for values in (tokens, np.where(learned, tokens, np.int32(IGNORED)))
    ]
    return pa.table([pa.array(ids, pa.string()), *columns], schema=TOKENS)
