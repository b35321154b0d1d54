"""What a reward model gives."""

from __future__ import annotations

from ray_si.config.scores import RewardScore
from ray_si.engines.base import Request, SamplingParams
from ray_si.run.ids import score_seed
from ray_si.scores.base import FAILED, Ask, Row, Scored


class Reward:
    """The scalar of a sequence-classification model for the row as a conversation."""

    version = 1
    columns = ("instruction", "input", "output")
    inputs: dict[str, str] = {}  # noqa: RUF012 - none

    def __init__(self, settings: RewardScore) -> None:
        self.generator = settings.generator

    def trial(self) -> list[Request]:
        """See `AskingScorer`."""
        return [self._request({"id": "x", "instruction": "x", "input": "", "output": "x"})]

    async def score(self, row: Row, ask: Ask) -> Scored:
        """See `AskingScorer`."""
        done = await ask(self._request(row))
        if done.finish_reason in ("error", "refused"):
            reason = FAILED if done.finish_reason == "error" else "refused"
            return Scored(None, reason, done.error)
        assert done.reward is not None, "a reward model gave none"
        return Scored(done.reward)

    def _request(self, row: Row) -> Request:
        given = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        turns = [
            {"role": "user", "content": given},
            {"role": "assistant", "content": row["output"]},
        ]
        seed = score_seed(row["id"])
        return Request(turns, SamplingParams(max_tokens=1), seed, "classification")
