"""Scores that need no model: computed where this runs, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ray_si.config.scores import ScoreSection
from ray_si.run.run import Run
from ray_si.scores import registry
from ray_si.scores.base import RowScorer
from ray_si.scores.job import Listen, ScoreJob, ScoreSummary

_BLOCK = 10_000
"""Rows of a block: some tenths of a second of work."""


def job_of(
    run: Run, name: str, settings: ScoreSection, location: str | None, of_answers: bool
) -> tuple[ScoreJob, RowScorer]:
    """A score that needs no model, and what computes it."""
    scorer = registry.create(settings)
    assert not registry.asks_a_model(scorer), "this score needs Ray"
    described = {
        "kind": settings.kind,
        "version": scorer.version,
        "settings": settings.model_dump(mode="json"),
    }
    job = ScoreJob(
        run,
        name,
        described,
        columns=scorer.columns,
        size=_BLOCK,
        location=location,
        of_answers=of_answers,
    )
    return job, scorer


def compute(
    run: Run,
    scores: Mapping[str, ScoreSection],
    location: str | None = None,
    *,
    of_answers: bool = False,
    listen: Listen = lambda name, done, total: None,
    notify: Callable[[str], None] = lambda message: None,
) -> list[ScoreSummary]:
    """Score a finished run's rows; what is stored already is not computed again.

    With ``of_answers`` all answers to their inputs instead.

    Raises ConfigError for settings that cannot work, before anything is written, and where a
    user's function fails; RunError where the run is unfinished or damaged.
    """
    jobs = [job_of(run, name, settings, location, of_answers) for name, settings in scores.items()]
    return [
        _compute(job, scorer, name, listen, notify)
        for (job, scorer), name in zip(jobs, scores, strict=True)
    ]


def _compute(
    job: ScoreJob,
    scorer: RowScorer,
    name: str,
    listen: Listen,
    notify: Callable[[str], None],
) -> ScoreSummary:
    if summary := job.summary():
        return summary
    with job.held(notify):
        standing, done = job.standing(), 0
        for number, block in job.blocks():
            if number not in standing:
                job.store(number, block, scorer.score(block.to_pylist()))
            done += block.num_rows
            listen(name, done, job.rows)
        return job.finish()
