"""What completions about one accepted instruction come to: its class, and its instances.

A build calls them as completions arrive; `verify` and `regate` call them again on what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, TypedDict, cast

import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.dedup import Duplicate, ExcludedTexts
from ray_si.engines.base import Completion
from ray_si.pipeline.decisions import FAILURES
from ray_si.records import Instance
from ray_si.run.checkpoint import POOL_COLUMNS
from ray_si.run.evaluation import texts_of_instance
from ray_si.run.schemas import InstanceRow, InstanceText, RejectedInstance
from ray_si.self_instruct.filters import filter_instances
from ray_si.self_instruct.parsing import parse_classification, read_instances

CAME_ALONG = "given"
"""Stands for the finish reason of an instruction whose instance came with it in joint mode: no
request was made about it."""

OF_OUTPUT = "contaminated_output"
"""The reason of an instance whose output comes too close to a text of an evaluation set."""

NOT_ASKED = "not_asked"
"""Stands for the finish reason of an instruction that `regate` accepted: no request was made about
it either, so it has no instance. Also the reason that its row gives for that."""


class PoolRow(TypedDict):
    """The `POOL_COLUMNS` of an `AcceptedRow`."""

    id: str
    instruction: str
    classification_prompt: bool
    instance: InstanceText | None


class ToWriteRow(PoolRow):
    """An instruction as the task gets it that writes its block: with the seed of its requests."""

    block: int
    seed: int


class AcceptedInstruction(NamedTuple):
    """An accepted instruction, as far as the phases after the gate go by it.

    ``given`` is the instance that came with it, in joint mode.
    """

    id: str
    instruction: str
    classification_prompt: bool
    given: Instance | None

    @classmethod
    def of(cls, row: PoolRow) -> AcceptedInstruction:
        """From an accepted row, or its `POOL_COLUMNS`."""
        given = row["instance"] and Instance(**row["instance"])
        return cls(row["id"], row["instruction"], row["classification_prompt"], given)


def pool_of(accepted: pa.Table) -> list[AcceptedInstruction]:
    """The instructions of a table of accepted rows."""
    return [AcceptedInstruction.of(row) for row in accepted.select(POOL_COLUMNS).to_pylist()]


def is_class_known(config: RunConfig, instruction: AcceptedInstruction) -> bool:
    """Whether phase 2 isn't asked: an instruction is then of the class that its prompt asked for.

    So where it came with an instance, and where ``classification.method`` is "prompt".
    """
    return instruction.given is not None or config.classification.method == "prompt"


@dataclass(frozen=True)
class Classified:
    """What phase 2 came to.

    ``answer`` is the label or text that says so, None where the model wasn't asked; ``margin`` the
    log-probability of yes minus that of no, where labels were scored; the tokens are what asking
    took.
    """

    is_classification: bool
    answer: str | None = None
    margin: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def answered_yes(config: RunConfig, completion: Completion) -> tuple[bool, float | None]:
    """What phase 2's answer says, and log-probability of yes minus that of no, where scored.

    One that says neither, or nothing at all, counts as no, as in the original code.
    """
    scores = completion.label_logprobs
    if scores is None:
        tags = config.reasoning.tags
        return bool(parse_classification(completion.text, config.labels, tags=tags)), None
    margin = scores[0] - scores[1]
    return margin > config.classification.threshold, margin


class InstanceCompletion(NamedTuple):
    """Of phase 3's completion, what instances are parsed from."""

    text: str
    finish_reason: str

    @classmethod
    def of(cls, row: InstanceRow) -> InstanceCompletion | None:
        """As a row stores it; None where no request was made."""
        if row["finish_reason"] in (CAME_ALONG, NOT_ASKED):
            return None
        return cls(row["text"], row["finish_reason"])


class DecidedInstances(NamedTuple):
    """What an instruction's row says of its instances, in order."""

    kept: list[InstanceText]
    rejected: list[RejectedInstance]


def decide_instances(
    config: RunConfig,
    instruction: AcceptedInstruction,
    is_classification: bool,
    completion: InstanceCompletion | None,
    excluded: ExcludedTexts | None = None,
) -> DecidedInstances:
    """The instances of one instruction: kept, and rejected with reasons.

    They are those of the ``completion`` or, where no request was made, the one that came along.
    What comes too close to an ``excluded`` text is left out before the filters see it.
    """
    if completion:
        read = read_instances(
            completion.text,
            completion.finish_reason,
            output_first=is_classification,
            headings=config.language.as_headings(),
            tags=config.reasoning.tags,
            rules=config.rules,
        )
    elif instruction.given:
        read = [(instruction.given, None)]
    else:
        return DecidedInstances([], [rejected_instance("", "", NOT_ASKED)])
    parsed = [item for item, reason in read if reason is None]
    refused = contaminated(instruction.instruction, parsed, excluded)
    instances = [instance for i, instance in enumerate(parsed) if i not in refused]
    rejected = [
        rejected_instance(item.input, item.output, reason) for item, reason in read if reason
    ]
    rejected += refused.values()
    filtered = filter_instances(
        instruction.instruction,
        instances,
        limit=config.instances.max_per_instruction,
        quality=config.instances.quality_filters,
        is_classification=is_classification,
        rules=config.rules,
        checks=config.instances.checks,
    )
    rejected += [
        rejected_instance(item.input, item.output, reason) for item, reason in filtered.rejected
    ]
    if completion and not read:
        reason = FAILURES.get(completion.finish_reason, "no_instance")
        rejected.append(rejected_instance("", completion.text, reason))
    return DecidedInstances([cast(InstanceText, asdict(item)) for item in filtered.kept], rejected)


def contaminated(
    instruction: str, instances: Sequence[Instance], excluded: ExcludedTexts | None
) -> dict[int, RejectedInstance]:
    """Place -> what to say of the instances that come too close to an excluded text.

    Its input is held against the texts first, by itself and below its instruction; then its output,
    which is `OF_OUTPUT` then, whether it is alike or holds a text.
    """
    if excluded is None:
        return {}
    texts = [texts_of_instance(instruction, instance.input) for instance in instances]
    matches = _nearest(excluded, texts)
    outputs = [[] if i in matches else [item.output] for i, item in enumerate(instances)]
    of_outputs = _nearest(excluded, outputs)
    return {
        i: rejected_instance(
            instances[i].input,
            instances[i].output,
            OF_OUTPUT if i in of_outputs else match.reason,
            match.match,
            match.score,
            match.source,
        )
        for i, match in sorted((matches | of_outputs).items())
    }


def _nearest(excluded: ExcludedTexts, texts: Sequence[Sequence[str]]) -> dict[int, Duplicate]:
    """Place -> the match of one of the texts there, the one with the highest score."""
    owner = [i for i, part in enumerate(texts) for _ in part]
    nearest: dict[int, Duplicate] = {}
    for match in excluded.find([text for part in texts for text in part]):
        i = owner[match.index]
        if i not in nearest or match.score > nearest[i].score:
            nearest[i] = match
    return nearest


def rejected_instance(
    input_: str,
    output: str,
    reason: str,
    match: str | None = None,
    score: float | None = None,
    source: str | None = None,
) -> RejectedInstance:
    """An instance as it is kept among those that were left out."""
    return {
        "input": input_,
        "output": output,
        "reason": reason,
        "match": match,
        "score": score,
        "source": source,
    }
