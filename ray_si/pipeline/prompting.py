"""What is asked: pure functions of the configuration, the seed tasks and the committed pool.

A build, `verify` and `preview` call them; nothing here needs Ray.
"""

from __future__ import annotations

import json
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import numpy as np
import pyarrow as pa

from ray_si.config import RunConfig
from ray_si.dedup.clusters import cluster
from ray_si.engines.base import Purpose, Request
from ray_si.errors import ConfigError
from ray_si.pipeline.conditions import Conditions, conditions_at, conditions_of
from ray_si.pipeline.instances import AcceptedInstruction, PoolRow
from ray_si.records import Instance, SeedTask
from ray_si.run.checkpoint import POOL_COLUMNS
from ray_si.run.ids import regions_seed, request_id, request_seed
from ray_si.run.schemas import INSTANCE, RAW_BLOCK, InstanceText, embeddings_of
from ray_si.self_instruct.filters import count_words, refers_to_text, words_of
from ray_si.self_instruct.prompts import (
    Example,
    RenderedPrompt,
    answer_prompt,
    classification_prompt,
    input_prompt,
    instance_prompt,
    instruction_prompt,
    joint_prompt,
    plan_prompt,
    rewrite_prompt,
    turn_prompt,
)
from ray_si.self_instruct.sampling import sample_demonstrations


@dataclass(frozen=True)
class Source:
    """A task that may stand in a prompt.

    ``classification`` says whether it is known to be one, ``has_input`` whether it needs an input.
    """

    id: str
    example: Example
    classification: bool
    has_input: bool = False


Kind = Literal["any", "classification", "with_input", "without_input"]
"""Of tasks that a prompt shows, and asks for more of."""


@dataclass(frozen=True)
class PromptRequest:
    """One request of a round, before its prompt is rendered."""

    index: int
    request_id: str
    seed: int
    classification_only: bool
    demonstrations: list[Source]
    conditions: Conditions


class _AskedRow(TypedDict):
    """What the raw block keeps of a request."""

    block: int
    request_id: str
    seed: int
    classification_prompt: bool
    demonstrations: list[str]


class ExampleText(TypedDict):
    """A demonstration as it stands in a prompt, with its instance in joint mode."""

    instruction: str
    instance: InstanceText | None


class DrawnRow(_AskedRow):
    """A request before its prompt is rendered: ``examples`` are its demonstrations, in order."""

    examples: list[ExampleText]


DRAWN = pa.schema(
    [
        *(RAW_BLOCK.field(name) for name in _AskedRow.__annotations__),
        ("examples", pa.list_(pa.struct([("instruction", pa.string()), ("instance", INSTANCE)]))),
    ]
)
"""`DrawnRow` in Arrow."""


class PromptRow(_AskedRow):
    """A request as it is asked; ``prompt`` is JSON of a `Prompt`."""

    prompt: str
    stop: list[str]


_ANY = Example("")


class Prompting:
    """The requests of phase 1, round by round.

    Round r's machine-written demonstrations come from the pool at the end of round
    r - 1 - lookahead, so what it asks does not depend on timing. `extend` tells of each committed
    round, in order; ``accepted`` counts what these accepted. What is drawn costs time, the pool
    only memory: what rounds accepted stays in their Arrow tables.
    """

    def __init__(self, config: RunConfig, seeds: Sequence[SeedTask]) -> None:
        self._config = config
        self._joint = config.bootstrap.mode == "joint"
        self._diverse = config.bootstrap.demonstration_sampling == "diverse"
        human = [self._of_seed(seed) for seed in seeds]
        self._human: dict[Kind, list[Source]] = {
            kind: self._short_ones([source for source in human if _is_of(source, kind)])
            for kind in self._kinds
        }
        self._machine: list[pa.Table] = []  # of each round
        self._sizes = array("q")  # of the pool at the end of each
        self._usable = {kind: array("q") for kind in self._kinds}  # places in it
        self._embeddings: list[np.ndarray] = []
        self._clustering = threading.Lock()  # it takes as much memory again, and all cores

    @property
    def accepted(self) -> int:
        """Instructions accepted so far."""
        return self._sizes[-1] if self._sizes else 0

    @property
    def needs_embeddings(self) -> bool:
        """Whether `extend` reads the column ``embedding``, besides `POOL_COLUMNS`."""
        return self._diverse

    def extend(self, accepted: pa.Table) -> None:
        """Take the accepted rows of the next committed round."""
        table = accepted.select(POOL_COLUMNS)
        options = self._config.bootstrap
        if self._joint or options.openings or options.max_demonstration_words is not None:
            sources: Iterable[Source] = map(_of_row, table.to_pylist())
        else:  # all may stand, whatever they say
            only = table["classification_prompt"].to_pylist()
            sources = (Source("", _ANY, is_classification) for is_classification in only)
        for place, source in enumerate(sources, self.accepted):
            if self._may_stand(source):
                for kind, places in self._usable.items():
                    if _is_of(source, kind):
                        places.append(place)
        self._machine.append(table)
        self._sizes.append(self.accepted + table.num_rows)
        if self._diverse and accepted.num_rows:
            vectors = embeddings_of(accepted)
            assert vectors is not None, "accepted instructions have no embeddings"
            self._embeddings.append(vectors)

    def requests(self, round_: int) -> list[PromptRequest]:
        """Every request of a round, in order."""
        options = self._config.bootstrap
        size = self.seen(round_)
        counts = {kind: bisect_left(pool, size) for kind, pool in self._usable.items()}
        regions: dict[Kind, list[list[int]]] = {}
        if (clusters := self._clusters(round_, size)) is not None:
            for kind, pool in self._usable.items():
                regions[kind] = _regions(pool[: counts[kind]], clusters)
        requests = []
        for index in range(options.prompts_per_round):
            only = self.is_classification_only(index)
            conditions = conditions_at(self._config, round_, index)
            kind = _kind_of(conditions.opening, only)
            seed = request_seed(self._config.seed, round_, index)
            first = request_seed(self._config.seed, round_, 0)
            drawn = sample_demonstrations(
                len(self._human[kind]),
                counts[kind],
                total=options.demonstrations,
                machine_count=options.machine_demonstrations,
                seed=first if options.same_demonstrations else seed,
                regions=regions.get(kind),
            )
            sources = [
                self._human[kind][d.index]
                if d.kind == "human"
                else self._at(self._usable[kind][d.index])
                for d in drawn
            ]
            id_ = request_id(round_, index)
            requests.append(PromptRequest(index, id_, seed, only, sources, conditions))
        return requests

    def check_new(self) -> None:
        """Raise ConfigError where too few seed tasks are short, with which no run should begin."""
        options = self._config.bootstrap
        shares = options.classification_share > 0, options.classification_share == 1
        shown = {_kind_of(opening, only) for opening in options.openings or [""] for only in shares}
        for kind, seeds in self._human.items():
            short = sum(map(self._may_stand, seeds))
            if kind in shown and short < len(seeds):
                raise ConfigError(
                    f"bootstrap.max_demonstration_words: {short} of {len(seeds)} seed tasks "
                    f"({kind.replace('_', ' ')}) have at most {options.max_demonstration_words} "
                    f"words, and a prompt shows {options.demonstrations}: set it higher, or "
                    "demonstrations lower"
                )

    @property
    def _kinds(self) -> tuple[Kind, ...]:
        if self._config.bootstrap.openings:
            return "with_input", "without_input"
        return "any", "classification"

    def is_classification_only(self, index: int) -> bool:
        """Whether the request with this index in its round is for classification tasks only."""
        share = self._config.bootstrap.classification_share
        return int((index + 1) * share) > int(index * share)

    def render(self, request: PromptRequest) -> RenderedPrompt:
        """The prompt of a request."""
        examples = [source.example for source in request.demonstrations]
        return render(self._config, examples, request.classification_only, request.conditions)

    def longest_prompt(self) -> RenderedPrompt:
        """About as long a prompt as a round may have.

        The longest seed tasks that may stand in one; the model's own instructions have as many
        words as they may, and in joint mode the longest seed task's instance.
        """
        options = self._config.bootstrap
        only = options.classification_share == 1
        kinds: list[Kind] = ["classification"] if only else ["any"]
        if options.openings:
            kinds = [_kind_of(opening, False) for opening in options.openings]
        sources = [source for kind in dict.fromkeys(kinds) for source in self._human[kind]]
        human = sorted(sources, key=_length, reverse=True)
        texts = [source.example.instruction for source in human]
        most = options.max_demonstration_words or options.max_words
        own = words_of(texts, most, tokenizer=self._config.dedup.tokenizer)
        machine = Source("", Example(own, human[0].example.instance if human else None), only)
        count = min(options.machine_demonstrations, options.demonstrations)
        sources = human[: options.demonstrations - count] + [machine] * count
        lists = options.openings, options.topics, options.rewrites
        longest = Conditions(*(max(texts, key=len, default="") for texts in lists))
        return self.render(PromptRequest(0, "", 0, only, sources, longest))

    def drawn(self, round_: int) -> list[DrawnRow]:
        """Every request of a round, in order, for `rendered`."""
        return [
            {
                "block": request.index // self._config.bootstrap.block_size,
                "request_id": request.request_id,
                "seed": request.seed,
                "classification_prompt": request.classification_only,
                "demonstrations": [source.id for source in request.demonstrations],
                "examples": [_example_text(source.example) for source in request.demonstrations],
            }
            for request in self.requests(round_)
        ]

    def rows(self, round_: int) -> list[PromptRow]:
        """Every request of a round, rendered."""
        return rendered(self._config, self.drawn(round_))

    def _at(self, place: int) -> Source:
        """The machine-written task at a place in the pool."""
        round_ = bisect_right(self._sizes, place)
        start = self._sizes[round_ - 1] if round_ else 0
        (row,) = self._machine[round_].slice(place - start, 1).to_pylist()
        return _of_row(row)

    def seen(self, round_: int) -> int:
        """How many machine-written tasks there are to a round: those before its lookahead."""
        seen = round_ - 1 - self._config.bootstrap.lookahead
        return self._sizes[seen] if seen >= 0 else 0

    def _clusters(self, round_: int, size: int) -> np.ndarray | None:
        """The clusters of the first ``size`` machine-written tasks, where these count."""
        if not (self._diverse and size):
            return None
        with self._clustering:
            vectors = np.concatenate(self._embeddings)[:size]
            return cluster(vectors, regions_seed(self._config.seed, round_))

    def _of_seed(self, seed: SeedTask) -> Source:
        example = Example(seed.instruction, seed.instances[0] if self._joint else None)
        has_input = any(instance.input.strip() for instance in seed.instances)
        return Source(seed.id, example, seed.is_classification, has_input)

    def _may_stand(self, source: Source) -> bool:
        if self._joint and source.example.instance is None:
            return False
        limit = self._config.bootstrap.max_demonstration_words
        return limit is None or self._words(source.example) <= limit

    def _words(self, example: Example) -> int:
        instance = example.instance or Instance("", "")
        text = f"{example.instruction} {instance.input} {instance.output}"
        return count_words(text, tokenizer=self._config.dedup.tokenizer)

    def _short_ones(self, sources: list[Source]) -> list[Source]:
        """Those that may stand in prompts; all of them where the short ones are few.

        No new run begins so, but earlier ones did, whose prompts stay what they are.
        """
        short = [source for source in sources if self._may_stand(source)]
        return short if len(short) >= self._config.bootstrap.demonstrations else sources


def rendered(config: RunConfig, drawn: Sequence[DrawnRow]) -> list[PromptRow]:
    """The requests with their prompts."""
    rows: list[PromptRow] = []
    for request in drawn:
        examples = [_as_example(item) for item in request["examples"]]
        conditions = conditions_of(config, request["request_id"])
        prompt = render(config, examples, request["classification_prompt"], conditions)
        rows.append(
            {
                "block": request["block"],
                "request_id": request["request_id"],
                "seed": request["seed"],
                "classification_prompt": request["classification_prompt"],
                "demonstrations": request["demonstrations"],
                "prompt": json.dumps(prompt.prompt),
                "stop": list(prompt.stop),
            }
        )
    return rows


def render(
    config: RunConfig,
    examples: Sequence[Example],
    classification_only: bool,
    conditions: Conditions,
) -> RenderedPrompt:
    """Phase 1's prompt with these demonstrations, under these conditions."""
    options: dict[str, Any] = {"topic": conditions.topic, "templates": config.prompts}
    if config.bootstrap.method == "template":
        return turn_prompt(**options)
    options["style"] = config.generator.prompt_style
    texts = [example.instruction for example in examples]
    if config.bootstrap.method == "plan":
        return plan_prompt(texts, **options)
    if config.bootstrap.method == "evolve":
        return rewrite_prompt(texts[0], conditions.rewrite, **options)
    options["classification_only"] = classification_only
    options["new"] = config.bootstrap.new_instructions
    if config.bootstrap.mode == "joint":
        return joint_prompt(examples, **options, headings=config.language.as_headings())
    return instruction_prompt(texts, **options, opening=conditions.opening)


def _example_text(example: Example) -> ExampleText:
    given = example.instance
    instance: InstanceText | None = None
    if given:
        instance = {"input": given.input, "output": given.output}
    return {"instruction": example.instruction, "instance": instance}


def _as_example(text: ExampleText) -> Example:
    return Example(text["instruction"], text["instance"] and Instance(**text["instance"]))


def _of_row(row: PoolRow) -> Source:
    """Of an accepted row."""
    id_, text, is_classification, given = AcceptedInstruction.of(row)
    return Source(id_, Example(text, given), is_classification, refers_to_text(text))


def _is_of(source: Source, kind: Kind) -> bool:
    if kind == "classification":
        return source.classification
    return kind == "any" or source.has_input == (kind == "with_input")


def _kind_of(opening: str, classification_only: bool) -> Kind:
    """The kind of tasks that a request shows."""
    if opening:
        return "with_input" if refers_to_text(opening) else "without_input"
    return "classification" if classification_only else "any"


def _length(source: Source) -> int:
    instance = source.example.instance or Instance("", "")
    return len(source.example.instruction) + len(instance.input) + len(instance.output)


def _regions(pool: Sequence[int], clusters: np.ndarray) -> list[list[int]]:
    """Positions in ``pool``, whose items are rows of ``clusters``, cluster by cluster."""
    of_pool = clusters[np.asarray(pool, np.int64)]
    order = np.argsort(of_pool, kind="stable")
    starts = np.flatnonzero(np.diff(of_pool[order])) + 1
    return [region.tolist() for region in np.split(order, starts) if region.size]


def instruction_request(config: RunConfig, prompt: RenderedPrompt, seed: int) -> Request:
    """Phase 1's request with this prompt."""
    purpose = config.bootstrap_purpose
    params = getattr(config.generator.sampling, purpose).params(_stops(config, prompt))
    is_open = config.bootstrap.method == "template"
    return Request(prompt.prompt, params, seed, purpose, continue_final_message=is_open)


def _stops(config: RunConfig, prompt: RenderedPrompt) -> tuple[str, ...]:
    """The template's stop strings, unless they could end a thought."""
    is_chat = not isinstance(prompt.prompt, str)
    return () if is_chat and config.reasoning.expected else prompt.stop


def classification_request(config: RunConfig, instruction: str, seed: int) -> Request:
    """Phase 2's question about one instruction."""
    prompt = classification_prompt(
        instruction,
        style=config.instance_style,
        templates=config.prompts,
        headings=config.language.as_headings(),
    )
    params = config.instances_by.sampling.classification.params(_stops(config, prompt))
    labels = config.labels if config.classification.method == "labels" else ()
    return Request(prompt.prompt, params, seed, "classification", labels)


def instance_request(
    config: RunConfig, instruction: str, is_classification: bool, seed: int
) -> Request:
    """Phase 3's question about one instruction."""
    prompt = instance_prompt(
        instruction,
        style=config.instance_style,
        output_first=is_classification,
        templates=config.prompts,
        headings=config.language.as_headings(),
    )
    purpose: Purpose = "output_first" if is_classification else "input_first"
    params = getattr(config.instances_by.sampling, purpose).params(_stops(config, prompt))
    return Request(prompt.prompt, params, seed, purpose)


@dataclass(frozen=True)
class Shown:
    """Tasks that requests for inputs and answers show, by whether they have an input."""

    without_input: tuple[Example, ...] = ()
    with_input: tuple[Example, ...] = ()

    @classmethod
    def of(cls, config: RunConfig, seeds: Sequence[SeedTask]) -> Shown:
        """The first seed tasks of each kind, as many as the configuration asks for."""
        options = config.instances
        tasks = [Example(seed.instruction, seed.instances[0]) for seed in seeds]
        given = [task for task in tasks if task.instance and task.instance.input.strip()]
        alone = [task for task in tasks if task.instance and not task.instance.input.strip()]
        return cls(
            tuple(alone[: options.demonstrations]), tuple(given[: options.input_demonstrations])
        )


def input_request(config: RunConfig, instruction: str, seed: int, shown: Shown) -> Request:
    """Phase 3's question for an input, where it asks in steps."""
    prompt = input_prompt(
        instruction,
        style=config.instance_style,
        inputs=config.instances.inputs,
        demonstrations=shown.with_input,
        templates=config.prompts,
        headings=config.language.as_headings(),
    )
    params = config.instances_by.sampling.input.params(_stops(config, prompt))
    is_open = prompt.continue_final_message
    return Request(prompt.prompt, params, seed, "input", continue_final_message=is_open)


def answer_request(
    config: RunConfig,
    instruction: str,
    input_: str,
    seed: int,
    answer: int,
    shown: Shown,
) -> Request:
    """Phase 3's question for an answer to an input (or ""), by its number."""
    prompt = answer_prompt(
        Example(instruction, Instance(input_, "")),
        style=config.instance_style,
        demonstrations=shown.with_input if input_ else shown.without_input,
        templates=config.prompts,
        headings=config.language.as_headings(),
    )
    params = config.instances_by.sampling.answer.params(_stops(config, prompt))
    if answer == 0 and config.instances.greedy_first:
        params = replace(params, temperature=0.0)
    return Request(prompt.prompt, params, seed, "answer")
