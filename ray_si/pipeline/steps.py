"""Instances asked one text at a time: an input, then several answers to it.

`ask_in_steps` makes the requests about one instruction; `decide_steps` says what they come to, in a
build, and again in `verify` and `regate` from what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

from ray_si.config import RunConfig
from ray_si.dedup import ExcludedTexts
from ray_si.engines.base import Completion, Request
from ray_si.pipeline.decisions import FAILURES, completion_row
from ray_si.pipeline.instances import AcceptedInstruction, contaminated, rejected_instance
from ray_si.pipeline.prompting import Shown, answer_request, input_request
from ray_si.records import Instance, SeedTask
from ray_si.run.ids import answer_seed, input_seed
from ray_si.run.run import Run
from ray_si.run.schemas import (
    COMPLETION,
    AnswerRow,
    AskedInput,
    CompletionRow,
    InstanceRow,
    InstanceText,
    RejectedInstance,
)
from ray_si.run.seeds import seeds_of
from ray_si.self_instruct.checks import failed_instance_check
from ray_si.self_instruct.filters import (
    instance_quality_reason,
    instance_reason,
    refers_to_text,
)
from ray_si.self_instruct.parsing import read_input, read_output

IN_STEPS = "steps"
"""Stands for the finish reason of an instruction whose several requests have their own."""

NOT_CHOSEN = "not_chosen"
"""Reason of an answer that passes the filters, where another one to its input is the row's."""

Ask = Callable[[Request], Awaitable[Completion]]


class Asked(NamedTuple):
    """The completion of an answer: to the input at which place, its number among the answers."""

    place: int
    answer: int
    completion: CompletionRow


@dataclass(frozen=True)
class Steps:
    """What the model wrote about one instruction, input by input."""

    inputs: list[CompletionRow]
    answers: list[Asked]

    @classmethod
    def of(cls, row: InstanceRow) -> Steps:
        """As a row stores it."""
        answers = [Asked(item["place"], item["answer"], _stored(item)) for item in row["answers"]]
        return cls([_stored(item) for item in row["inputs"]], answers)

    def as_completion(self) -> Completion:
        """Stands for all of them in the columns that hold the completion of a pair."""
        every = [*self.inputs, *(asked.completion for asked in self.answers)]
        error = next((item["error"] for item in every if item["finish_reason"] == "error"), None)
        whole = Completion("", "error" if error else "stop", error=error)
        return replace(
            whole,
            prompt_tokens=sum(item["prompt_tokens"] for item in every),
            completion_tokens=sum(item["completion_tokens"] for item in every),
        )


class DecidedSteps(NamedTuple):
    """What an instruction's row says of its instances, and of each completion."""

    kept: list[InstanceText]
    rejected: list[RejectedInstance]
    inputs: list[AskedInput]
    answers: list[AnswerRow]


async def ask_in_steps(
    config: RunConfig, instruction: str, seed: int, ask: Ask, shown: Shown
) -> Steps:
    """Ask for the inputs of an instruction, then for the answers to each, all at once."""
    inputs: list[CompletionRow] = []
    if _wants_input(config, instruction):
        places = range(config.instances.max_per_instruction)
        requests = [input_request(config, instruction, input_seed(seed, k), shown) for k in places]
        inputs = [completion_row(done) for done in await asyncio.gather(*map(ask, requests))]
    wanted = [
        (place, answer, text)
        for place, text in _inputs_of(config, read_inputs(config, instruction, inputs)).items()
        for answer in range(config.instances.answers)
    ]
    completions = await asyncio.gather(
        *(
            ask(answer_request(config, instruction, text, answer_seed(seed, place, k), k, shown))
            for place, k, text in wanted
        )
    )
    answers = [
        Asked(place, answer, completion_row(done))
        for (place, answer, _), done in zip(wanted, completions, strict=True)
    ]
    return Steps(inputs, answers)


def shown_in_run(config: RunConfig, location: str, fingerprint: str) -> Shown:
    """The demonstrations of the run there, read once in a process for each ``fingerprint``."""
    options = config.instances
    if not (options.demonstrations or options.input_demonstrations):
        return Shown()
    return Shown.of(config, _seeds_of_run(location, fingerprint))


@lru_cache(maxsize=1)
def _seeds_of_run(location: str, _fingerprint: str) -> list[SeedTask]:
    return seeds_of(Run.open(location).read("seeds.parquet"))


def read_inputs(
    config: RunConfig, instruction: str, completions: Sequence[CompletionRow]
) -> list[AskedInput]:
    """What the completions that were asked for inputs come to, in order."""
    read: list[AskedInput] = []
    for row in completions:
        text, reason = "", FAILURES.get(row["finish_reason"])
        if reason is None:
            text, reason = read_input(
                row["text"],
                row["finish_reason"],
                headings=config.language.as_headings(),
                tags=config.reasoning.tags,
                cut_at_sentence=config.instances.inputs == "user_turn",
                max_words=config.instances.max_input_words,
            )
        if reason is None and not text and config.instances.inputs == "user_turn":
            reason = "missing_input"
        if reason is None and text in [one["input"] for one in read if not one["rejected_for"]]:
            reason = "duplicate"
        reason = reason or failed_instance_check(
            config.instances.checks, instruction, Instance(text, ""), of_input=True
        )
        read.append({**row, "input": text, "rejected_for": reason})
    return read


def decide_steps(
    config: RunConfig,
    instruction: AcceptedInstruction,
    is_classification: bool,
    steps: Steps,
    excluded: ExcludedTexts | None = None,
) -> DecidedSteps:
    """The instances of one instruction, and why each other completion is none.

    Of the answers to an input that pass the filters the likeliest is chosen, the first among equals
    or where likelihoods are unknown.
    """
    text = instruction.instruction
    inputs = read_inputs(config, text, steps.inputs)
    by_place = _inputs_of(config, inputs)
    read = [_read_answer(config, item.completion) for item in steps.answers]
    instances = [
        Instance(by_place[item.place], output)
        for item, (output, _) in zip(steps.answers, read, strict=True)
    ]
    refused = contaminated(text, instances, excluded)
    answers: list[AnswerRow] = []
    for i, (place, number, row) in enumerate(steps.answers):
        instance = instances[i]
        input_, (output, reason) = instance.input, read[i]
        if reason is None and i in refused:
            reason = refused[i]["reason"]
        reason = reason or _reason(config, text, instance, is_classification)
        if reason is None and any(
            (one["place"], one["output"], one["rejected_for"]) == (place, output, None)
            for one in answers
        ):
            reason = "duplicate"
        answers.append(
            {
                "place": place,
                "answer": number,
                "input": input_,
                "output": output,
                "rejected_for": reason,
                "is_chosen": False,
                **row,
            }
        )
    for place in by_place:
        passing = [a for a in answers if a["place"] == place and a["rejected_for"] is None]
        if passing:
            max(passing, key=_likelihood)["is_chosen"] = True
    return DecidedSteps(
        [{"input": a["input"], "output": a["output"]} for a in answers if a["is_chosen"]],
        [
            *(
                rejected_instance(item["input"], "", item["rejected_for"])
                for item in inputs
                if item["rejected_for"]
            ),
            *(
                _rejection(answer, refused.get(i))
                for i, answer in enumerate(answers)
                if not answer["is_chosen"]
            ),
        ],
        inputs,
        answers,
    )


def _wants_input(config: RunConfig, instruction: str) -> bool:
    return config.instances.inputs == "asked" or refers_to_text(instruction)


def _inputs_of(config: RunConfig, inputs: Sequence[AskedInput]) -> dict[int, str]:
    """Place -> input that answers are asked for; no input at place 0 where none was asked for."""
    if not inputs:
        return {0: ""}
    return {k: item["input"] for k, item in enumerate(inputs) if item["rejected_for"] is None}


def _read_answer(config: RunConfig, row: CompletionRow) -> tuple[str, str | None]:
    if failure := FAILURES.get(row["finish_reason"]):
        return "", failure
    return read_output(row["text"], row["finish_reason"], tags=config.reasoning.tags)


def _reason(
    config: RunConfig, instruction: str, instance: Instance, is_classification: bool
) -> str | None:
    reason = instance_reason(instance)
    if reason is None and config.instances.quality_filters:
        reason = instance_quality_reason(instruction, instance, is_classification=is_classification)
    return reason or failed_instance_check(config.instances.checks, instruction, instance)


def _likelihood(answer: AnswerRow) -> float:
    logprob = answer["mean_logprob"]
    return float("-inf") if logprob is None else logprob


def _rejection(answer: AnswerRow, match: RejectedInstance | None) -> RejectedInstance:
    reason = answer["rejected_for"] or NOT_CHOSEN
    if match is not None and reason == match["reason"]:
        return {**match, "output": answer["output"]}
    return rejected_instance(answer["input"], answer["output"], reason)


def _stored(item: Any) -> CompletionRow:
    """The completion in a stored input or answer."""
    return cast(CompletionRow, {name: item[name] for name in COMPLETION.names})
