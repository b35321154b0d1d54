"""Scores that a model gives: rows asked of Serve replicas, block by block, by Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from ray_si.build.answering import Task
from ray_si.build.hosting import hosted
from ray_si.build.stages import write_blocks
from ray_si.config import RunConfig
from ray_si.config.scores import ScoreSection
from ray_si.engines import registry as engines
from ray_si.engines.base import Completion
from ray_si.run.run import Run
from ray_si.scores import registry
from ray_si.scores.base import FAILED, Ask, AskingScorer, Row, Scored
from ray_si.scores.compute import compute
from ray_si.scores.job import Listen, ScoreJob, ScoreSummary, scored_table
from ray_si.scores.stored import BLOCKS
from ray_si.serving.applications import shared_name
from ray_si.serving.connect import connect, is_this_machine
from ray_si.serving.replicas import AFTER_ROUNDS
from ray_si.storage.tables import ShardInfo

_BLOCK = 64
"""Rows of a block: some seconds of a model's work."""

_AT_ONCE, _A_SLOT = 1 << 14, 32
"""Rows that the driver holds at a time, and more where there are so few for each slot: the slots
that are done with such rows wait for its last ones."""


@dataclass(frozen=True)
class ScoreRows:
    """Rows to what a model gives them: the work of the tasks, see `ray_si.build.stages.Work`."""

    scorer: AskingScorer
    folder: str = BLOCKS
    row_id: str = "id"

    async def answer(self, row: Row, ask: Ask) -> Scored:
        """Have one row scored."""
        return await self.scorer.score(row, ask)

    def failed(self, error: Completion) -> Scored:
        """The error, for a row that none could be given."""
        return Scored(None, FAILED, error.error)

    def complete(self, block: pa.Table, answers: list[Scored]) -> pa.Table:
        """A block of the score."""
        return scored_table(block, answers)

    def summary(self, stored: pa.Table, info: ShardInfo) -> pa.Table:
        """How many rows it has."""
        return pa.table({"rows": [stored.num_rows]})


def score_run(
    run: Run,
    sections: Mapping[str, ScoreSection],
    location: str | None = None,
    *,
    of_answers: bool = False,
    address: str | None = None,
    listen: Listen = lambda name, done, total: None,
    notify: Callable[[str], None] = lambda message: None,
) -> list[ScoreSummary]:
    """Score a finished run's rows, with models where a score needs one; called again, it goes on.

    With ``of_answers`` all answers to their inputs are scored instead. Scores that need no model
    come first. ``address`` is a Ray cluster's, see `connect`; Ray is used only where a model has
    rows left. Raises UserError before any row is scored by a model: for a run that is not
    finished, a model that is not there, which is where replicas run, or cannot give such a score.
    """
    scorers = {name: registry.create(settings) for name, settings in sections.items()}
    asking = {
        name: _Asking(run, name, sections[name], scorer, location, of_answers)
        for name, scorer in scorers.items()
        if registry.asks_a_model(scorer)
    }
    here = is_this_machine(address)
    for score in asking.values():
        if score.summary() is None:
            score.check(here=here)
    alone = {name: settings for name, settings in sections.items() if name not in asking}
    computed = compute(run, alone, location, of_answers=of_answers, listen=listen, notify=notify)
    summaries = {item.name: item for item in computed}
    if any(score.summary() is None for score in asking.values()):
        notify("starting Ray")
        with connect(address) as is_ours:
            for score in asking.values():
                if score.summary() is None:
                    score.run(is_ours, listen, notify)
    for name, score in asking.items():
        summary = score.summary()
        assert summary is not None, "a score ended before its manifest"
        summaries[name] = summary
    return [summaries[name] for name in sections]


class _Asking:
    """One score that a model gives."""

    def __init__(
        self,
        run: Run,
        name: str,
        settings: ScoreSection,
        scorer: AskingScorer,
        location: str | None,
        of_answers: bool,
    ) -> None:
        self._name, self._scorer = name, scorer
        self._config = RunConfig(generator=scorer.generator)
        described = {
            "kind": settings.kind,
            "version": scorer.version,
            "settings": settings.model_dump(mode="json", exclude={"generator", "prompt"}),
            "model": self._config.identity()["generator"],
            "inputs": scorer.inputs,
        }
        self._job = ScoreJob(
            run,
            name,
            described,
            columns=scorer.columns,
            size=_BLOCK,
            location=location,
            of_answers=of_answers,
        )

    def summary(self) -> ScoreSummary | None:
        """See `ScoreJob.summary`."""
        return self._job.summary()

    def check(self, *, here: bool) -> None:
        """Raise EngineError where the model is not there or cannot give this score.

        ``here`` is whether replicas run on this machine, as on a laptop, and not on a cluster.
        """
        generator = self._scorer.generator
        if not here and generator.engine not in engines.FROM_THE_DRIVER:
            return
        options = generator.engine_options()
        engines.check(generator.engine, generator.model, options, self._scorer.trial())

    def run(self, is_ours: bool, listen: Listen, notify: Callable[[str], None]) -> None:
        """Have all blocks written that do not stand, or in which requests failed for good."""
        job, folder = self._job, self._job.folder
        with job.held(notify):
            fencing, again = folder.fencing, frozenset(job.failed_blocks())
            with hosted(
                self._config,
                shared_name(folder.location),
                folder,
                self._scorer.trial(),
                is_ours=is_ours,
                notify=lambda note: notify(f"{self._name}: {note}"),
            ) as serving:
                generators = serving.generators
                work = ScoreRows(self._scorer)
                task = Task(work, generators, folder.location, AFTER_ROUNDS, fencing, again)
                done = 0
                at_once = max(_AT_ONCE, _A_SLOT * sum(generators.slots.values()))
                for passed, window in self._windows(again, at_once):
                    done += passed
                    listen(self._name, done, job.rows)
                    for _, summary, _ in write_blocks(window, task, parallel_phases=False):
                        folder.check_lease()
                        done += summary["rows"][0].as_py()
                        listen(self._name, done, job.rows)
            job.finish()

    def _windows(
        self, again: frozenset[int], at_once: int
    ) -> Iterator[tuple[int, dict[int, pa.Table]]]:
        """The blocks to be written, so many rows at a time, and how many rows before them stand."""
        standing = self._job.standing().keys() - again
        passed = 0
        window: dict[int, pa.Table] = {}
        for number, block in self._job.blocks():
            if number in standing:
                passed += block.num_rows
                continue
            window[number] = block
            if len(window) * _BLOCK >= at_once:
                yield passed, window
                passed, window = 0, {}
        yield passed, window
