"""Instruction-following difficulty: how little the instruction helps to guess the output."""

from __future__ import annotations

import asyncio
import math

from ray_si.config.scores import IfdScore
from ray_si.engines.base import Request, SamplingParams
from ray_si.records import Prompt
from ray_si.run.ids import score_seed
from ray_si.scores.base import FAILED, Ask, Row, Scored


class Ifd:
    """exp(-(log p(output | instruction) - log p(output)) / tokens), arXiv 2402.00530.

    The ratio of the output's perplexities with and without the instruction. Without means, for a
    chat model, after an empty turn of the user, else at the beginning of a text.
    """

    version = 1
    columns = ("instruction", "input", "output")
    inputs: dict[str, str] = {}  # noqa: RUF012 - none

    def __init__(self, settings: IfdScore) -> None:
        self.generator = settings.generator
        self._is_chat = settings.generator.prompt_style == "chat"

    def trial(self) -> list[Request]:
        """See `AskingScorer`."""
        return [self._request("x", "x", 0)]

    async def score(self, row: Row, ask: Ask) -> Scored:
        """See `AskingScorer`."""
        given = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        both = await asyncio.gather(
            *(
                ask(self._request(prompt, row["output"], score_seed(row["id"], part)))
                for part, prompt in enumerate((given, ""))
            )
        )
        for done in both:
            if done.finish_reason in ("error", "refused"):
                reason = FAILED if done.finish_reason == "error" else "refused"
                return Scored(None, reason, done.error)
        with_it, without = (done.label_logprobs for done in both)
        counts = both[0].label_tokens
        if with_it is None or without is None or not counts or not counts[0]:
            return Scored(None, "no_logprobs")
        return Scored(math.exp((without[0] - with_it[0]) / counts[0]))

    def _request(self, given: str, output: str, seed: int) -> Request:
        prompt: Prompt = f"{given}\n\n" if given else ""
        if self._is_chat:
            prompt = [{"role": "user", "content": given}]
        return Request(prompt, SamplingParams(temperature=0), seed, "classification", (output,))
