"""A run's configuration, checked as a whole before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ray_si.config.rounds import MANY_SLOTS, Spread, busy_share, fitted, latencies
from ray_si.config.scores import scores_of
from ray_si.config.sections.answers import Language, Reasoning
from ray_si.config.sections.base import Section as _Section
from ray_si.config.sections.bootstrap import Bootstrap
from ray_si.config.sections.budget import Budget
from ray_si.config.sections.dedup import Dedup, EmbedderSection
from ray_si.config.sections.engine_options import PACING, lasting
from ray_si.config.sections.generator import Generator
from ray_si.config.sections.instances import Classification, Instances
from ray_si.config.sections.output import Card, Output
from ray_si.config.sections.select import Select
from ray_si.engines.base import Purpose
from ray_si.errors import ConfigError
from ray_si.self_instruct.parsing import Rules
from ray_si.self_instruct.prompts import LABELS, Style, templates_in_use


class RunConfig(_Section):
    """Everything a run's result depends on."""

    seed: int = Field(0, ge=0)
    """Seed of every random choice."""
    target_instructions: int = Field(1000, ge=1)
    """Accepted instructions to reach."""
    seeds: str = "bundled"
    """Path of seed tasks in the paper's JSONL schema, or "bundled"."""
    decontaminate: tuple[str, ...] = ()
    """Evaluation sets that nothing accepted may resemble, by the measures of ``dedup``: paths, or
    s3:// addresses; what they may hold, see `ray_si.run.evaluation`."""
    decontaminate_ngram: int | None = Field(13, ge=8, le=100)
    """Words in a row that nothing generated may share with a text of these sets, wherever they
    stand; texts of fewer, down to 8, are looked for whole. Off compares texts as wholes only."""
    generator: Generator = Generator()
    instance_generator: Generator | None = None
    """Another model for classification and instances, hosted beside; none: the same one."""
    embedder: EmbedderSection = EmbedderSection()
    bootstrap: Bootstrap = Bootstrap()
    classification: Classification = Classification()
    instances: Instances = Instances()
    dedup: Dedup = Dedup()
    language: Language = Language()
    reasoning: Reasoning = Reasoning()
    rules: Rules = "lines"
    """How answers are read: line by line, or (paper.yaml) as the original code reads them."""
    prompts: dict[str, str] = Field(default_factory=dict, validate_default=True)
    """Prompt templates by name, as in ray_si/self_instruct/templates; in YAML also a folder with
    NAME.txt files. Ours stand in for those that are missing; held are those that the run uses."""
    output: Output = Output()
    card: Card = Card()
    budget: Budget = Budget()
    select: Select = Select()
    scores: dict[str, Any] = Field({})
    """What ``ray-si score`` computes of the rows where it is given no other names: settings by
    name; see the chapter on scores. Nothing that is generated depends on it."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.budget.dollars and not all(part.prices for part in self.generators.values()):
            raise ValueError("budget.dollars needs generator.prices (prompt, completion)")
        if self.rules == "original" and self.bootstrap.mode == "joint":
            raise ValueError(
                "rules original has none for whole tasks: set bootstrap.mode to instructions"
            )
        if self.rules == "original" and self.bootstrap.method != "list":
            raise ValueError(
                f"rules original has none for bootstrap.method {self.bootstrap.method}: set it to "
                "list"
            )
        if self.reasoning.expected and self.classification.method == "labels":
            raise ValueError(
                "reasoning.expected: labels would be scored where the thought begins: set "
                "classification.method to text"
            )
        room = self.instances_by.sampling.classification.max_tokens
        if self.reasoning.expected and self.classification.method == "text" and room < _A_THOUGHT:
            raise ValueError(
                f"reasoning.expected: no thought fits into {room} tokens: set "
                "generator.sampling.classification.max_tokens to 1000, say"
            )
        self._check_open_turn()
        if self.bootstrap.demonstration_sampling == "diverse" and self.dedup.cosine is None:
            raise ValueError(
                "bootstrap.demonstration_sampling diverse needs the cosine gate's embeddings: "
                "set dedup.cosine"
            )
        self._check_steps()
        if self.select.during and self.output.keep:
            raise ValueError("select.during counts every row: leave output.keep out")
        if self.bootstrap.openings and self.generator.prompt_style != "completion":
            raise ValueError(
                "bootstrap.openings: a chat writes its answer from the start; set "
                "generator.prompt_style to completion (instances.prompt_style may stay chat)"
            )
        return self

    def _check_open_turn(self) -> None:
        """Raise ValueError where method template cannot have the model write a user's turn."""
        if self.bootstrap.method != "template":
            return
        if self.generator.prompt_style != "chat":
            raise ValueError(
                "bootstrap.method template opens a chat's turn: set generator.prompt_style to chat"
            )
        if self.generator.engine == "openai":
            raise ValueError(
                "bootstrap.method template: an endpoint leaves no user turn open; use list, plan "
                "or evolve"
            )

    def _check_steps(self) -> None:
        """Raise ValueError for a way of asking in steps that cannot go together with the rest."""
        if self.instances.method == "pairs":
            if self.output.keep:
                raise ValueError("output.keep ranks answers: set instances.method to steps")
            return
        if self.rules == "original":
            raise ValueError("rules original has none for steps: set instances.method to pairs")
        shown = self.instances.demonstrations or self.instances.input_demonstrations
        if shown and self.instance_style != "chat":
            raise ValueError(
                "instances.demonstrations are chat turns: set instances.prompt_style to chat, or "
                "change the template completion_input_first"
            )
        if self.instances.max_input_words and self.instances.inputs != "user_turn":
            raise ValueError("instances.max_input_words needs instances.inputs user_turn")
        if self.instances.inputs == "user_turn":
            if self.instance_style != "chat":
                raise ValueError(
                    "instances.inputs user_turn needs chat turns: set instances.prompt_style"
                )
            if self.instances_by.engine == "openai":
                raise ValueError(
                    "instances.inputs user_turn: an endpoint leaves no user turn open; use asked"
                )

    @model_validator(mode="after")
    def _fit_rounds(self) -> RunConfig:
        options = self.bootstrap
        if options.fit_to_slots:
            names = "prompts_per_round", "lookahead"
            given = options.model_fields_set.intersection(names)
            numbers = self.fitted_rounds(**{name: getattr(options, name) for name in given})
            self._with_rounds(dict(zip(names, numbers, strict=True)))
        return self

    def fitted_rounds(
        self, prompts_per_round: int | None = None, lookahead: int | None = None
    ) -> tuple[int, int]:
        """Both, as ``bootstrap.fit_to_slots`` chooses what is not given here."""
        options = self.bootstrap
        return fitted(
            self.generator.slots,
            self.latencies,
            self.target_instructions,
            options.new_instructions,
            prompts=prompts_per_round,
            lookahead=lookahead,
            least=options.least_prompts,
            most=options.prompts_of_openings,
        )

    def _with_rounds(self, numbers: Mapping[str, int]) -> None:
        """Take these for what ``bootstrap`` leaves open, which does not count as set then."""
        options = self.bootstrap.model_copy()
        open_ = {name: n for name, n in numbers.items() if name not in options.model_fields_set}
        options.__dict__.update(open_)
        self.__dict__["bootstrap"] = options

    @property
    def latencies(self) -> Spread:
        """How long phase 1's answers take, as far as the configuration says."""
        purpose, asked = self.bootstrap_purpose, self.bootstrap.new_instructions
        return latencies(self.generator, purpose, asked)

    @property
    def busy_share(self) -> float:
        """Share of the generator's slots that phase 1 can keep busy, by simulation.

        1 where they are few: one small replica's are soon full, and hardly worth a word.
        """
        slots, options = self.generator.slots, self.bootstrap
        if slots < MANY_SLOTS:
            return 1.0
        return busy_share(slots, self.latencies, options.prompts_per_round, options.lookahead)

    @field_validator("prompts")
    @classmethod
    def _all_in_use(cls, given: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        needed = {"generator", "instance_generator", "bootstrap", "classification", "instances"}
        if not needed <= info.data.keys():
            return given  # one of them is wrong, and said to be
        generator, bootstrap = info.data["generator"], info.data["bootstrap"]
        instances = info.data["instances"]
        later = (info.data["instance_generator"] or generator).prompt_style
        return templates_in_use(
            given,
            style=generator.prompt_style,
            later_style=instances.prompt_style or later,
            openings=bootstrap.openings,
            topics=bool(bootstrap.topics),
            inputs=instances.inputs if instances.method == "steps" else None,
            joint=bootstrap.mode == "joint",
            method=bootstrap.method,
            classification_share=bootstrap.classification_share,
            ask_class=info.data["classification"].method != "prompt",
        )

    @field_validator("scores")
    @classmethod
    def _known_scores(cls, given: dict[str, Any]) -> dict[str, Any]:
        scores_of(given)
        return given

    @field_validator("decontaminate", mode="before")
    @classmethod
    def _one_path(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("decontaminate_ngram", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return None if value is False else value

    @property
    def instances_by(self) -> Generator:
        """The generator that classifies instructions and writes their instances."""
        return self.instance_generator or self.generator

    @property
    def instance_style(self) -> Style:
        """The style of the prompts of phases 2 and 3."""
        return self.instances.prompt_style or self.instances_by.prompt_style

    def section_for(self, purpose: Purpose) -> str:
        """Which of `generators` answers requests of a purpose."""
        is_bootstrap = purpose in ("instructions", "joint") or self.instance_generator is None
        return "generator" if is_bootstrap else "instance_generator"

    def generator_for(self, purpose: Purpose) -> Generator:
        """The generator that answers requests of a purpose."""
        return self.generators[self.section_for(purpose)]

    def dollars(
        self, prompt_tokens: Mapping[Purpose, float], completion_tokens: Mapping[Purpose, float]
    ) -> float | None:
        """What tokens, by purpose, cost at the generators' prices; None where none has prices."""
        if not any(generator.prices for generator in self.generators.values()):
            return None
        total = 0.0
        for purpose in {*prompt_tokens, *completion_tokens}:
            if prices := self.generator_for(purpose).prices:
                total += prices.dollars(
                    prompt_tokens.get(purpose, 0), completion_tokens.get(purpose, 0)
                )
        return total

    @property
    def generators(self) -> dict[str, Generator]:
        """Every generator that is hosted, by the section's name."""
        sections = {"generator": self.generator, "instance_generator": self.instance_generator}
        return {name: section for name, section in sections.items() if section}

    @property
    def bootstrap_purpose(self) -> Purpose:
        """What phase 1 asks for."""
        return "joint" if self.bootstrap.mode == "joint" else "instructions"

    @property
    def labels(self) -> tuple[str, str]:
        """The two answers of phase 2, yes first."""
        return self.language.labels or LABELS[self.instance_style]

    def identity(self) -> dict[str, Any]:
        """The part that results depend on: without what only places, paces or ends the work.

        Nor options of engines that aren't used, nor the paths of the seed tasks and evaluation
        sets, whose content counts, nor what the card is told and rows are scored by, nor what
        `_LATER` leaves out.
        Prompts by their SHA-256.
        """
        values = self.model_dump(mode="json")
        for name in ("seeds", "decontaminate", "budget", "card", "scores"):
            del values[name]
        del values["bootstrap"]["fit_to_slots"]  # what it comes to stands there
        values["prompts"] = {
            name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.prompts.items()
        }
        if not self.decontaminate:
            values["decontaminate_ngram"] = None
        for name, default in _LATER.items():
            if values[name] == default:
                del values[name]
        for section, names in _LATER_IN.items():
            defaults = getattr(RunConfig(), section).model_dump(mode="json")
            for name in names:
                if values[section][name] == defaults[name]:
                    del values[section][name]
        for section, names in _PLACEMENT.items():
            for name in names:
                if values[section]:
                    del values[section][name]
        for section, generator in self.generators.items():
            if not generator.chat_template_kwargs:  # a later key, too
                del values[section]["chat_template_kwargs"]
            if self.instances.method == "pairs":
                del values[section]["sampling"]["input"], values[section]["sampling"]["answer"]
            for engine in PACING:
                options = values[section].pop(engine)
                if engine == generator.engine:
                    values[section][engine] = lasting(engine, options)
        return values

    def as_begun(self, stored: Mapping[str, Any]) -> RunConfig:
        """With former defaults where the run of this ``stored`` configuration began under them.

        Only for keys that are not set here: a default that changes is one for new runs. So with
        rounds that were fitted to slots, which may be others by now. Raises ConfigError where a
        former default does not go together with what is set.
        """
        changed: dict[str, Any] = {}
        for name, former in _FORMER_DEFAULTS.items():
            section = getattr(self, name)
            begun = stored.get(name, {})
            changed[name] = section.model_copy(
                update={
                    key: value
                    for key, value in former.items()
                    if key not in section.model_fields_set and begun.get(key) == value
                }
            )
        for name, generator in self.generators.items():
            sampling = (stored.get(name) or {}).get("sampling", {})
            changed[name] = generator.model_copy(
                update={"sampling": generator.sampling.as_begun(sampling)}
            )
        ngram = "decontaminate_ngram"
        if stored and ngram not in stored and ngram not in self.model_fields_set:
            changed[ngram] = None
        begun = self.model_copy(update=changed)
        if begun.dedup.gpus and begun.dedup.embedding_index != "exact":
            raise ConfigError(
                f"dedup.gpus: the run was begun with embedding_index {begun.dedup.embedding_index},"
                " which is searched on processors; leave gpus out"
            )
        if self.bootstrap.fit_to_slots and "bootstrap" in stored:
            names = "prompts_per_round", "lookahead"
            begun._with_rounds({name: stored["bootstrap"][name] for name in names})
        return begun

    def fingerprint(self, seeds_sha256: str, sets_sha256: Sequence[str] = ()) -> str:
        """SHA-256, hex, over `identity` and the content of seed tasks and evaluation sets."""
        return fingerprint_of(self.identity(), seeds_sha256, sets_sha256)


def fingerprint_of(
    identity: dict[str, Any], seeds_sha256: str | None, sets_sha256: Sequence[str]
) -> str:
    """See `RunConfig.fingerprint`."""
    parts = [identity, seeds_sha256, *([list(sets_sha256)] if sets_sha256 else [])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


_FORMER_DEFAULTS = {"dedup": {"tokenizer": "reference", "embedding_index": "Flat"}}
"""By section, what keys had for a default in earlier versions."""

_A_THOUGHT = 64
"""Tokens that the shortest takes, with the answer."""

_HOSTING = (
    *("replicas", "min_replicas", "max_replicas", "cpus", "gpus", "accelerator"),
    *("threads", "max_batch", "batch_tokens", "stall_s", "prices"),
)
_PLACEMENT = {
    "generator": _HOSTING,
    "instance_generator": _HOSTING,
    "embedder": ("replicas", "cpus", "gpus"),
    "dedup": ("shards", "gpus"),
}

_LATER_IN = {
    "bootstrap": (
        *("openings", "prompts_per_opening", "topics", "checks", "same_demonstrations"),
        *("method", "rewrites"),
    ),
    "instances": (
        *("method", "answers", "greedy_first", "inputs", "prompt_style"),
        *("demonstrations", "input_demonstrations", "checks", "max_input_words"),
    ),
    "output": ("keep",),
}
"""By section, keys that came later still, which at their defaults mean the same."""

_LATER = {
    "rules": "lines",
    "select": Select().model_dump(mode="json"),
    "reasoning": Reasoning().model_dump(mode="json"),
    "decontaminate_ngram": None,
}
"""Keys that came after the first runs, and the value that means what was done before there were
any: at that value they are no part of the identity, so that earlier runs can be resumed."""
