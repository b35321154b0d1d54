"""Models asked the same tasks through Ray Serve, answers stored as they come, then compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_si._version import __version__
from ray_si.build.answering import Ask, Task
from ray_si.build.hosting import hosted
from ray_si.build.stages import write_blocks
from ray_si.config import Generator, RunConfig
from ray_si.config.sections.engine_options import lasting
from ray_si.engines import bundled, registry
from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.errors import ConfigError, GenerationError, RunError, TaskError
from ray_si.experiments.extras import need
from ray_si.experiments.unseen import unseen
from ray_si.pipeline.decisions import completion_row
from ray_si.records import Prompt
from ray_si.run.folder import Folder, check_outside
from ray_si.run.layout import block_key
from ray_si.run.schemas import COMPLETION
from ray_si.run.seeds import load_seeds
from ray_si.self_instruct.formats import to_row
from ray_si.serving.applications import shared_name
from ray_si.serving.connect import connect, is_this_machine
from ray_si.storage.tables import ShardInfo, read_table
from ray_si.training import ratings
from ray_si.training.base import choose_encoding, inspect, weights_digest
from ray_si.training.benchmarks import BENCHMARKS
from ray_si.training.comparison import compare, to_markdown
from ray_si.training.config import Encoding, Evaluation
from ray_si.training.encode import as_prompt
from ray_si.training.hold_out import split_seeds
from ray_si.training.provenance import LOADING, ModelName, seed_texts
from ray_si.training.scores import against_references
from ray_si.training.tasks import (
    BUNDLED,
    Example,
    digest,
    examples_of,
    load_examples,
)

_HEADER, _REPORT, _KEY = "evaluation.json", "report.json", "rating_key.json"


class EvaluateConfig(Evaluation):
    """An evaluation, and how the models are hosted for it."""

    generator: Generator = Generator()
    """Engine, replicas and resources; its model, prompts and sampling do not count here."""


@dataclass(frozen=True)
class EvaluationProgress:
    """A moment of an evaluation: answers of one model that are stored."""

    model: str
    done: int
    total: int
    note: str = ""


def evaluate(
    models: Mapping[str, str],
    tasks: Sequence[str],
    location: str,
    config: EvaluateConfig,
    *,
    benchmark: str | None = None,
    seeds: str = BUNDLED,
    address: str | None = None,
    listen: Callable[[EvaluationProgress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Ask every model (name -> model) every task, and write the comparison to ``location``.

    ``tasks`` are paths (see `load_examples`); "bundled" stands for the held-out part of ``seeds``.
    With ``benchmark``, one of `BENCHMARKS`, they are the one path of its tasks, and its settings
    are taken where ``config`` has none of its own.
    Tasks near a seed task behind a model's training (`unseen`) are left out, for all models, with
    their count. ``location`` is a folder or ``s3://bucket/prefix`` outside of any run; answers that
    stand there are not asked again. Returns what report.json says. Raises UserError before anything
    is written, GenerationError where a model answers nothing at all, LeaseLostError where another
    process has taken over the place.
    """
    need("rouge_score", "scipy")
    check_outside(location)
    if benchmark is None:
        examples = _examples(tasks, config.instances_per_task, seeds)
        measure = against_references()
    else:
        config = _as_benchmark(benchmark, tasks, config)
        measure = BENCHMARKS[benchmark].measure(config)
        examples = BENCHMARKS[benchmark].load(tasks[0], config)
    asked = unseen(examples, _trained_on(models.values(), config.generator), config)
    left_out = len(examples) - len(asked)
    if not asked:
        raise TaskError(
            "every task was a seed task of the data that a model was trained on: evaluate on others"
        )
    here = is_this_machine(address)
    members = {name: _Member(name, model, config, here=here) for name, model in models.items()}
    folder = Folder(location, _HEADER, "an evaluation")
    names = ("max_tokens", "stop", "instances_per_task", "encoding")
    options = config.model_dump(mode="json", include=set(names))
    identity = {"examples": digest(asked), **options}
    folder.check(identity)
    for member in members.values():
        member.check(folder)
    folder.claim(identity, {"ray_si": __version__, "tasks": list(tasks)})
    with folder.held(lambda message: listen(EvaluationProgress("", 0, 0, message))):
        answers = _answer_all(folder, list(members.values()), asked, config, address, listen)
        reasons = {"seed tasks of the data that a model was trained on": left_out}
        reasons = {reason: count for reason, count in reasons.items() if count}
        report = compare(config, asked, answers, reasons, measure)
        if benchmark is not None:
            report = {"benchmark": _benchmark(benchmark, config, left_out)} | report
        for name, member in members.items():
            report["models"][name] = member.identity | report["models"][name]
        _publish(folder, report, asked, answers, config)
    return report


def _as_benchmark(name: str, tasks: Sequence[str], config: EvaluateConfig) -> EvaluateConfig:
    """The configuration with the benchmark's settings where it has none of its own."""
    if name not in BENCHMARKS:
        raise ConfigError(f"there is no benchmark {name}; there are {', '.join(BENCHMARKS)}")
    if len(tasks) != 1 or BUNDLED in tasks:
        raise ConfigError(f"--benchmark {name} needs one --tasks: where its tasks are")
    settings = BENCHMARKS[name].settings
    return config.model_copy(
        update={key: settings[key] for key in settings.keys() - config.model_fields_set}
    )


def _benchmark(name: str, config: EvaluateConfig, left_out: int) -> dict[str, Any]:
    """What the report says of a benchmark."""
    shown = {"positive_examples": config.positive_examples} if name.startswith("super-ni") else {}
    return {"name": name, "about": BENCHMARKS[name].about, "complete": not left_out, **shown}


def rate(location: str, paths: Sequence[str]) -> dict[str, Any]:
    """Count what raters exported and how far they agree; writes ratings.json and returns it.

    Raises RunError where ``location`` holds no finished evaluation, TaskError for the files.
    """
    need("scipy", "sklearn", "krippendorff")
    folder = Folder(location, _HEADER, "an evaluation")
    stored = folder.read_json(_KEY)
    if stored is None:
        raise RunError(f"{location} holds no finished evaluation with a page for raters")
    raters = [ratings.load_ratings(path, stored["evaluation"], stored["key"]) for path in paths]
    names = [rater.name for rater in raters]
    if len(set(names)) < len(names):
        raise TaskError(f"two of these ratings are of the same rater: {', '.join(names)}")
    result = ratings.summarize(raters, stored["key"])
    folder.write_json("ratings.json", result)
    return result


def _examples(tasks: Sequence[str], limit: int, seeds: str) -> list[Example]:
    examples: list[Example] = []
    if BUNDLED in tasks:
        examples += examples_of(split_seeds(load_seeds(seeds)[0])[1], limit)
        if not examples:
            raise TaskError(f"no seed task of {seeds} is held out for evaluation: give --tasks")
    return examples + load_examples([path for path in tasks if path != BUNDLED], limit)


def _trained_on(models: Iterable[str], generator: Generator) -> list[str]:
    """Texts of the seed tasks behind what these models were trained on."""
    loads = generator.engine in LOADING
    named = [ModelName(model, generator.revision, loads) for model in models]
    adapter = generator.vllm.lora
    return seed_texts([*named, *([ModelName(adapter)] if adapter else [])])


class _Member:
    """One of the models that are compared; ``here`` is whether replicas run on this machine.

    If not, the engine's packages are looked for where they do. What tells the model from others is
    read on this machine in any case.
    """

    def __init__(self, name: str, model: str, config: EvaluateConfig, *, here: bool = True) -> None:
        generator = config.generator
        if here or generator.engine in registry.FROM_THE_DRIVER:
            registry.check(generator.engine, model, generator.engine_options())
        elif generator.engine in LOADING:
            need("transformers")
            registry.check_model(model, generator.revision)
        self.name = name
        self.generator = generator.model_copy(update={"model": model})
        self.slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
        self.encoding = config.encoding
        weights = None
        if generator.engine not in LOADING:
            served: Encoding = "text" if generator.engine == "replay" else "chat"
            self.encoding = served if config.encoding == "auto" else config.encoding
        else:
            base = inspect(
                bundled.resolve(model),
                revision=generator.revision,
                trust_remote_code=generator.trust_remote_code,
            )
            self.encoding = choose_encoding(config.encoding, base.tokenizer, model)
            weights = base.digest
        self.identity = {
            "model": model,
            "engine": generator.engine,
            "revision": generator.revision,
            "encoding": self.encoding,
            "weights": weights,
            **_options(generator),
        }

    @property
    def folder(self) -> str:
        """Where its answers lie."""
        return f"answers/{self.slug}"

    def check(self, folder: Folder) -> None:
        """RunError where the folder has answers of another model under this name.

        As far as it says: those that earlier versions began have fewer keys.
        """
        stored = (folder.read_json(f"{self.folder}/model.json") or {}).get("identity", {})
        # weights and adapters are told by their digests, wherever they lie
        same = {"model", "lora"} if self.identity["weights"] else {"lora"}
        compared = [key for key in self.identity if key in stored and key not in same]
        if changed := [key for key in compared if stored[key] != self.identity[key]]:
            raise RunError(
                f"{folder.location} has answers of another model under the name {self.name} "
                f"(different: {', '.join(changed)}); name this one otherwise (--model "
                f"NAME={self.identity['model']}), or choose another --to"
            )

    def run_config(self) -> RunConfig:
        """As `Serving` takes it."""
        return RunConfig(generator=self.generator)


def _options(generator: Generator) -> dict[str, Any]:
    """What answers depend on besides the model, of what the engine is told."""
    values = generator.model_dump(mode="json")
    names = ["chat_template_kwargs", *(["dtype"] if generator.engine in LOADING else [])]
    found = {name: values[name] for name in names}
    if generator.engine == "openai":
        found |= lasting("openai", values["openai"]) | {"base_url": generator.openai.base_url}
    if generator.engine == "vllm":
        adapter = generator.vllm.lora
        found |= lasting("vllm", values["vllm"])
        found |= {"adapter": None if adapter is None else weights_digest(adapter, None)}
        del found["max_model_len"]
    return found


def _answer_all(
    folder: Folder,
    members: Sequence[_Member],
    examples: Sequence[Example],
    config: EvaluateConfig,
    address: str | None,
    listen: Callable[[EvaluationProgress], None],
) -> dict[str, list[dict[str, Any]]]:
    """Answers of every model, in the order of the examples, asking what is not stored yet."""
    if len({member.slug for member in members}) < len(members):
        raise ConfigError("two models have the same name: use --model NAME=MODEL")
    reported = (folder.read_json(_REPORT) or {}).get("models", {})
    blocks = _blocks(examples, config.block_size)
    missing = {}
    for member in members:
        folder.write_json(f"{member.folder}/model.json", {"identity": member.identity})
        final = member.name in reported
        missing[member.name] = [b for b in blocks if not _stands(folder, member, b, final)]
    if any(missing.values()):
        listen(EvaluationProgress("", 0, 0, "starting Ray"))
        with connect(address) as is_ours:
            for member in members:
                if missing[member.name]:
                    done = len(examples) - sum(b.num_rows for b in missing[member.name])
                    _ask(folder, member, missing[member.name], done, config, is_ours, listen)
    return {member.name: _read(folder, member, blocks) for member in members}


def _ask(
    folder: Folder,
    member: _Member,
    blocks: list[pa.Table],
    done: int,
    config: EvaluateConfig,
    is_ours: bool,
    listen: Callable[[EvaluationProgress], None],
) -> None:
    total = done + sum(block.num_rows for block in blocks)
    host = member.run_config()
    name = f"{shared_name(folder.location)}-{member.slug}"
    sampling = SamplingParams(max_tokens=config.max_tokens, temperature=0.0, stop=config.stop)
    work = AnswerExamples(member.folder, member.encoding, sampling)

    def notify(message: str) -> None:
        listen(EvaluationProgress(member.name, done, total, message))

    with hosted(host, name, folder, is_ours=is_ours, notify=notify) as serving:
        task = Task(work, serving.generators, folder.location, order=(0,), fencing=folder.fencing)
        numbered = {block["block"][0].as_py(): block for block in blocks}
        for _, _, info in write_blocks(numbered, task, parallel_phases=False):
            folder.check_lease()
            done += info.rows
            listen(EvaluationProgress(member.name, done, total))


@dataclass(frozen=True)
class AnswerExamples:
    """Prompts to answers: the work of an evaluation's tasks, see `Work`."""

    folder: str
    encoding: Encoding
    sampling: SamplingParams
    row_id: str = "id"

    async def answer(self, row: dict[str, Any], ask: Ask) -> Completion:
        """Ask one example."""
        prompt: Prompt = row["prompt"]  # a benchmark's as it is, for a base model to go on from
        if self.encoding == "chat" or not row["verbatim"]:
            prompt = as_prompt(row["prompt"], self.encoding)
        return await ask(Request(prompt, self.sampling, 0, "input_first"))

    def failed(self, error: Completion) -> Completion:
        """The error itself."""
        return error

    def complete(self, block: pa.Table, answers: list[Completion]) -> pa.Table:
        """A block of answers."""
        rows = [
            {**row, **completion_row(completion)}
            for row, completion in zip(block.to_pylist(), answers, strict=True)
        ]
        return pa.Table.from_pylist(rows, pa.schema([*block.schema, *COMPLETION]))

    def summary(self, stored: pa.Table, info: ShardInfo) -> pa.Table:
        """Nothing: the driver only counts."""
        return stored.select([])


def _blocks(examples: Sequence[Example], size: int) -> list[pa.Table]:
    """The examples in order, cut into blocks."""
    prompts = [
        to_row(e.instruction, e.instance, "prompt-completion")["prompt"]
        if e.prompt is None
        else e.prompt
        for e in examples
    ]
    blocks = []
    for start in range(0, len(examples), size):
        part = slice(start, min(start + size, len(examples)))
        blocks.append(
            pa.table(
                {
                    "block": pa.array([start // size] * (part.stop - start), pa.int64()),
                    "id": [example.id for example in examples[part]],
                    "prompt": prompts[part],
                    "verbatim": [example.prompt is not None for example in examples[part]],
                }
            )
        )
    return blocks


def _stands(folder: Folder, member: _Member, block: pa.Table, final: bool) -> bool:
    """Whether a block is answered; one with failures is asked again until it is reported."""
    key = block_key(member.folder, block["block"][0].as_py())
    try:
        stored = read_table(folder.objects, key)
    except KeyError:
        return False
    if not stored["id"].equals(block["id"]):
        raise RunError(f"{folder.location} holds answers in blocks of another size (block_size)")
    if final or "error" not in stored["finish_reason"].to_pylist():
        return True
    folder.delete(key)
    return False


def _read(folder: Folder, member: _Member, blocks: Sequence[pa.Table]) -> list[dict[str, Any]]:
    keys = [block_key(member.folder, block["block"][0].as_py()) for block in blocks]
    answers = [row for key in keys for row in read_table(folder.objects, key).to_pylist()]
    if all(answer["finish_reason"] == "error" for answer in answers):
        raise GenerationError(f"{member.name} answered nothing: {answers[0]['error']}")
    return answers


def _publish(
    folder: Folder,
    report: dict[str, Any],
    examples: Sequence[Example],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    config: EvaluateConfig,
) -> None:
    """Write the page for raters with its key, the scores of every answer, and the report."""
    texts = {name: [a["text"] for a in given] for name, given in answers.items()}
    evaluation = hashlib.sha256(
        json.dumps([report["examples_sha256"], texts, config.seed]).encode()
    ).hexdigest()
    page, key = ratings.make_page(
        examples, answers, count=config.rated, seed=config.seed, evaluation=evaluation
    )
    folder.write("rate.html", page.encode())
    folder.write_json(_KEY, {"evaluation": evaluation, "key": key})
    folder.write("README.md", to_markdown(report).encode())
    folder.write_json(_REPORT, report)
