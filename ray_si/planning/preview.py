"""A few of a run's requests, answered and decided in this process: no Ray, nothing written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pyarrow as pa

from ray_si.build.builder import check
from ray_si.config import RunConfig
from ray_si.dedup import Deduplicator, DedupResult
from ray_si.engines import registry
from ray_si.engines.base import Completion, Engine, Request
from ray_si.pipeline.contamination import excluded_texts
from ray_si.pipeline.decisions import Usable, completion_row, decide_round, texts_of
from ray_si.pipeline.embeddings import embed_inputs
from ray_si.pipeline.gate import OpenGate, gate_options, guarded
from ray_si.pipeline.instance_rows import Written as WrittenInstances, instance_row
from ray_si.pipeline.instances import (
    AcceptedInstruction,
    Classified,
    answered_yes,
    is_class_known,
    pool_of,
)
from ray_si.pipeline.prompting import (
    Prompting,
    PromptRequest,
    Shown,
    answer_request,
    classification_request,
    instance_request,
    instruction_request,
)
from ray_si.pipeline.steps import Steps, ask_in_steps, read_inputs
from ray_si.records import Prompt
from ray_si.run.ids import instance_seed
from ray_si.run.schemas import ACCEPTED, AnswerRow, InstanceText, RawRow, RejectedInstance
from ray_si.self_instruct.thoughts import Thoughts, split_thoughts

_Asked = tuple[str, bool, int]
"""Of phase 3: an instruction, whether it is a classification task, and its seed."""

_Answered = tuple[WrittenInstances, Prompt | None, Completion | None]
"""What the model wrote, and of that the prompt and completion to show."""

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """A candidate and what became of it: ``reason`` is None where it was kept.

    ``source`` is the evaluation set that ``match`` is of, if it is of one.
    """

    position: int
    text: str
    reason: str | None = None
    match: str | None = None
    score: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class AnsweredPrompt:
    """A request for instructions, its completion, and what became of each line of it.

    ``parts`` are the thought that is left out before lines are read, and the answer.
    """

    request_id: str
    classification_only: bool
    demonstrations: list[str]
    prompt: Prompt
    completion: Completion
    lines: list[Line]
    parts: Thoughts


@dataclass(frozen=True)
class Written:
    """Phases 2 and 3 for one instruction.

    ``classification`` is phase 2's completion; ``prompt`` and ``completion`` are phase 3's, of the
    first answer where it asks in steps; None where the model wasn't asked. ``parts`` are the
    thought and the answer of that completion; the tokens are those of all of phase 3's, and
    ``answers`` all that were asked in steps.
    """

    instruction: str
    is_classification: bool
    prompt: Prompt | None
    classification: Completion | None
    completion: Completion | None
    kept: list[InstanceText]
    rejected: list[RejectedInstance]
    parts: Thoughts
    prompt_tokens: int
    completion_tokens: int
    answers: list[AnswerRow]


@dataclass
class Decided:
    """A sample of a run's first round after the gate.

    ``answered`` are the requests in order, ``accepted`` what passed the gate. ``usable`` holds, for
    every candidate that parsing and filters let pass, the place of its request in ``answered`` and
    its text.
    """

    answered: list[AnsweredPrompt]
    accepted: list[AcceptedInstruction]
    usable: list[tuple[int, str]]


class DryRun:
    """The engine, embedder and gate of a run, in this process.

    Requests are those that a build's first rounds would send. ``engine_seconds`` is how long the
    engine took to answer them. Raises what `builder.check` raises,
    and EngineError where a model cannot be loaded.
    """

    def __init__(
        self, config: RunConfig, listen: Callable[[str], None] = lambda note: None
    ) -> None:
        self.config = config
        inputs = check(config)
        self.seeds = inputs.seeds
        self._sets = inputs.sets
        self._listen = listen
        self.engine_seconds = 0.0
        self._loop = asyncio.new_event_loop()
        self._prompting = Prompting(config, self.seeds)
        embedder = None
        if config.dedup.cosine is not None:
            listen("loading the embedder")
            embedder = registry.embedder(config.embedder.model)
        self.encode = embedder.encode if embedder else None
        self._engines = {section: self._load(section) for section in config.generators}

    def _load(self, section: str) -> Engine:
        generator = self.config.generators[section]
        self._listen(f"loading {generator.model or generator.engine}")
        return registry.create(generator.engine, generator.model, generator.engine_options())

    def ask(self, count: int, *, each_kind: bool = False) -> list[PromptRequest]:
        """``count`` requests of the first rounds, in the order in which a build sends them.

        With ``each_kind`` the last is for classification tasks only where none before it would be
        and the run has such prompts.
        """
        prompt_requests: list[PromptRequest] = []
        for round_ in range(-(-count // self.config.bootstrap.prompts_per_round)):
            prompt_requests += self._prompting.requests(round_)
            self._prompting.extend(ACCEPTED.empty_table())  # as if nothing had been accepted
        chosen = prompt_requests[:count]
        if each_kind and not any(item.classification_only for item in chosen):
            labelled = [item for item in prompt_requests if item.classification_only]
            chosen[-1:] = labelled[:1] or chosen[-1:]
        return chosen

    def decide(self, prompt_requests: Sequence[PromptRequest]) -> Decided:
        """Answer requests for instructions, and decide on every candidate."""
        prompts = [self._prompting.render(item) for item in prompt_requests]
        requests = [
            instruction_request(self.config, prompt, item.seed)
            for item, prompt in zip(prompt_requests, prompts, strict=True)
        ]
        self._listen(f"asking for instructions, {len(requests)} prompts")
        completions = self.answer(requests)
        self._listen("deciding")
        rows = [
            raw_row(item, done) for item, done in zip(prompt_requests, completions, strict=True)
        ]
        usable: list[tuple[int, str]] = []
        places = {item.request_id: place for place, item in enumerate(prompt_requests)}

        def decide(candidates: Sequence[Usable]) -> DedupResult:
            usable.extend((places[row["request_id"]], item.text) for row, item in candidates)
            gate = self.gate()
            texts = texts_of(candidates)
            return gate.filter(texts, gate.embed(texts))

        decided = decide_round(self.config, 0, rows, len(rows) * 10_000, decide)
        lines = _lines(decided.accepted, decided.rejected)
        answered = [
            AnsweredPrompt(
                item.request_id,
                item.classification_only,
                [source.id for source in item.demonstrations],
                prompt.prompt,
                completion,
                lines.get(item.request_id, []),
                split_thoughts(completion.text, self.config.reasoning.tags),
            )
            for item, prompt, completion in zip(prompt_requests, prompts, completions, strict=True)
        ]
        return Decided(answered, pool_of(decided.accepted), usable)

    def write(self, instructions: Sequence[AcceptedInstruction]) -> list[Written]:
        """Phases 2 and 3 for accepted instructions."""
        config = self.config
        self._listen(f"asking for instances, {len(instructions)} instructions")
        seeds = [instance_seed(config.seed, i) for i in range(len(instructions))]
        questions = {
            i: classification_request(config, item.instruction, seeds[i])
            for i, item in enumerate(instructions)
            if not is_class_known(config, item)
        }
        answers = self._answer_each(questions)
        classes = [
            answered_yes(config, answers[i])[0] if i in answers else item.classification_prompt
            for i, item in enumerate(instructions)
        ]
        excluded = excluded_texts(config, self._sets) if self._sets else None
        places = [i for i, item in enumerate(instructions) if item.given is None]
        texts = [item.instruction for item in instructions]
        ask = self._in_steps if config.instances.method == "steps" else self._in_pairs
        answered = ask([(texts[i], classes[i], seeds[i]) for i in places])
        asked = dict(zip(places, answered, strict=True))
        written = []
        for i, item in enumerate(instructions):
            made, prompt, done = asked.get(i, (None, None, None))
            row = instance_row(config, item, 0, seeds[i], Classified(classes[i]), made, excluded)
            parts = split_thoughts(done.text if done else "", config.reasoning.tags)
            written.append(
                Written(
                    item.instruction,
                    classes[i],
                    prompt,
                    answers.get(i),
                    done,
                    row["instances"],
                    row["rejected"],
                    parts,
                    row["prompt_tokens"],
                    row["completion_tokens"],
                    row.get("answers", []),
                )
            )
        return written

    def _in_pairs(self, asked: Sequence[_Asked]) -> list[_Answered]:
        """Phase 3 of instructions, each with its class and seed, in one request each."""
        requests = [instance_request(self.config, *item) for item in asked]
        prompts = [request.prompt for request in requests]
        completions = self.answer(requests)
        return list(zip(completions, prompts, completions, strict=True))

    def _in_steps(self, asked: Sequence[_Asked]) -> list[_Answered]:
        """The same in steps; prompt and completion are those of the first answer."""

        shown = Shown.of(self.config, self.seeds)

        async def together() -> list[Steps]:
            steps = (
                ask_in_steps(self.config, text, seed, self._ask, shown) for text, _, seed in asked
            )
            return list(await asyncio.gather(*steps))

        answered: list[_Answered] = []
        for (text, _, _), steps in zip(asked, self._timed(together()), strict=True):
            prompt = done = None
            if steps.answers:
                place, number, first = steps.answers[0]
                inputs = read_inputs(self.config, text, steps.inputs)
                input_ = inputs[place]["input"] if inputs else ""
                prompt = answer_request(self.config, text, input_, 0, number, shown).prompt
                done = Completion(**cast(Any, first))
            answered.append((steps, prompt, done))
        return answered

    def _answer_each(self, requests: dict[int, Request]) -> dict[int, Completion]:
        return dict(zip(requests, self.answer(list(requests.values())), strict=True))

    def answer(self, requests: list[Request]) -> list[Completion]:
        """As many completions as requests, in order, by the engine that each is for."""

        async def together() -> list[Completion]:
            return list(await asyncio.gather(*map(self._ask, requests)))

        return self._timed(together())

    def _ask(self, request: Request) -> Coroutine[Any, Any, Completion]:
        return self._engines[self.config.section_for(request.purpose)].generate(request)

    def _timed(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of work that waits for the engines alone."""
        started = time.perf_counter()
        result = self._loop.run_until_complete(work)
        self.engine_seconds += time.perf_counter() - started
        return result

    def gate(self) -> OpenGate:
        """A gate with the seed tasks in it, behind the evaluation sets."""
        gate = Deduplicator(**gate_options(self.config.dedup) | {"most_similar": 0})
        texts = [seed.instruction for seed in self.seeds]
        if self.encode is None:
            gate.add(texts)
            return OpenGate(guarded(gate, self.config, self._sets), None, None)
        inputs = embed_inputs(self.seeds, self._sets, self.encode)
        gate.add(texts, inputs.seeds)
        return OpenGate(guarded(gate, self.config, self._sets, inputs.sets), self.encode, None)


def raw_row(request: PromptRequest, completion: Completion) -> RawRow:
    """As a raw block has it."""
    return {
        "block": 0,
        "request_id": request.request_id,
        "seed": request.seed,
        "classification_prompt": request.classification_only,
        "demonstrations": [source.id for source in request.demonstrations],
        **completion_row(completion),
    }


def _lines(accepted: pa.Table, rejected: pa.Table) -> dict[str, list[Line]]:
    """Request id -> its lines, in order."""
    lines: dict[str, list[Line]] = {}
    for row in accepted.select(["request_id", "position", "instruction"]).to_pylist():
        lines.setdefault(row["request_id"], []).append(Line(row["position"], row["instruction"]))
    for row in rejected.to_pylist():
        request_id = row.pop("request_id")
        lines.setdefault(request_id, []).append(Line(**row))
    return {name: sorted(own, key=lambda line: line.position) for name, own in lines.items()}
