"""Rows -> tokens, with the prompt's masked out of the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ray_si.errors import EngineError
from ray_si.records import Message, Prompt
from ray_si.training.config import Encoding, TrainingEncoding
from ray_si.training.joint_tokens import JointTokenizer, JointTokens
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
            lead: int(self._controls(self._tokens([""], [lead + "x"]))[0])
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
        batches = [slice(start, start + _BATCH) for start in range(0, len(ids), _BATCH)]
        tables = [TOKENS.empty_table()]
        # of two batches one is in the tokenizer, outside of Python's lock
        with ThreadPoolExecutor(2) as encoding:
            for table, counts in encoding.map(
                lambda part: self._encoded(ids[part], prompts[part], completions[part]), batches
            ):
                tables.append(table)
                self.counts.update(counts)
        return pa.concat_tables(tables).combine_chunks()

    def _encoded(
        self, ids: Sequence[str], prompts: Sequence[str], completions: Sequence[str]
    ) -> tuple[pa.Table, Counter[str]]:
        """The kept rows of a batch, and what is to be counted of it."""
        turns = [self._turn.around(completion) for completion in completions]
        tokens = self._tokens(self._opened(prompts), [lead + answer for lead, answer in turns])
        fates = self._fates(tokens, [lead for lead, _ in turns])
        kept = fates == "kept"
        lengths = np.where(kept, np.minimum(tokens.sizes, self._max_length), 0)
        fits = tokens.places < np.repeat(lengths, tokens.sizes)
        values, learned = tokens.ids[fits], tokens.follows[fits]
        starts = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int32)
        columns = [
            pa.ListArray.from_arrays(starts, part)
            for part in (values, np.where(learned, values, np.int32(IGNORED)))
        ]
        kept_ids = pa.array([ids[row] for row in np.flatnonzero(kept).tolist()], pa.string())
        counts = Counter(fates.tolist())
        counts["rows"] = len(ids)
        counts["truncated"] = int((lengths < tokens.sizes)[kept].sum())
        counts["tokens"] = len(values)
        counts["completion_tokens"] = int(learned.sum())
        return pa.table([kept_ids, *columns], schema=TOKENS), counts

    def _tokens(self, opened: Sequence[str], answers: Sequence[str]) -> JointTokens:
        """Those of prompts and of answers with their leads, up to and with the end of the turn."""
        tokens = self._joint.tokenize(opened, [answer + self._turn.end for answer in answers])
        if self._turn.stops:
            return tokens
        ids = np.insert(tokens.ids, np.cumsum(tokens.sizes), self._tokenizer.eos_token_id)
        return replace(tokens, ids=ids, following=tokens.following + 1)

    def _fates(self, tokens: JointTokens, leads: Sequence[str]) -> np.ndarray:
        """What counts each row: "kept", "dropped" or one of `REFUSALS`."""
        last = np.append(tokens.ids, -1)[np.cumsum(tokens.sizes) - 1]
        ended = (tokens.following > 0) & np.isin(last, list(self._stops))
        shortest = tokens.sizes if self._too_long == "drop" else tokens.prompts + 1
        allowed = np.array([self._turn_control[lead] for lead in leads], np.int64)
        reasons = {
            "inside_token": ~tokens.parted,
            "control_token": self._controls(tokens) > allowed,
            "no_end_token": ~ended,
            "dropped": shortest > self._max_length,
        }
        return np.select(list(reasons.values()), list(reasons), "kept")

    def _opened(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as text, up to where the model goes on."""
        if self._encoding == "varied":
            return list(prompts)
        if self._encoding == "text":
            return [prompt + _TEXT_END for prompt in prompts]
        conversations = [[_question(prompt)] for prompt in prompts]
        return render(self._tokenizer, conversations, add_generation_prompt=True)

    def _controls(self, tokens: JointTokens) -> np.ndarray:
        """How many of each row's learned tokens are control tokens."""
        rows = np.repeat(np.arange(len(tokens.sizes)), tokens.sizes)
        found = rows[tokens.follows & np.isin(tokens.ids, self._control)]
        return np.bincount(found, minlength=len(tokens.sizes))


def _control_tokens(tokenizer: Any) -> list[int]:
    """Tokens that no answer may spell, since they steer the model: the special ones.

    Without the unknown token, which stands for text, and those around thoughts.
    """
    added = tokenizer.added_tokens_decoder
    special = {id_ for id_, token in added.items() if token.special} | {*tokenizer.all_special_ids}
    return sorted(
        id_
        for id_ in special - {tokenizer.unk_token_id}
        if "think" not in str(tokenizer.convert_ids_to_tokens(id_)).lower()
    )
