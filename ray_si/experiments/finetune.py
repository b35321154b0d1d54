"""A finished run's rows -> a tuned model: Ray Train around the trainer of `ray_si.training`."""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import boto3
from pyarrow import fs

from ray_si._version import __version__
from ray_si.engines import bundled, registry
from ray_si.errors import ConfigError, RunError, StorageLostError, TrainingError, one_line
from ray_si.experiments.extras import need
from ray_si.export.training_lines import Source
from ray_si.run.folder import check_beside
from ray_si.run.run import Run
from ray_si.run.seeds import seeds_of
from ray_si.self_instruct import formats
from ray_si.serving.connect import connect
from ray_si.storage.base import absolute
from ray_si.training.base import Base, choose_encoding, inspect
from ray_si.training.config import Training, TrainingEncoding
from ray_si.training.encode import Encoder
from ray_si.training.job import Job, Rows, encode_rows
from ray_si.training.provenance import ModelName, generators_of, seed_texts, texts_of_seeds

T = TypeVar("T")

_METRICS_EVERY_S = 2.0
"""Seconds between two writes of metrics.jsonl, and between two looks at it."""


@dataclass(frozen=True)
class TrainingProgress:
    """A moment of a fine-tuning; ``steps`` is 0 until it is known."""

    step: int = 0
    steps: int = 0
    loss: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Finetuned:
    """``model`` is a folder, or ``s3://...``; ``result`` is what result.json says."""

    model: str
    result: dict[str, Any]


def finetune(
    run_location: str,
    to: str,
    settings: Training,
    *,
    address: str | None = None,
    listen: Callable[[TrainingProgress], None] = lambda progress: None,
) -> Finetuned:
    """Tune ``settings.model`` on the rows of a finished run; called again, it goes on.

    ``to`` is a folder or ``s3://bucket/prefix``; on a cluster all workers must reach it and the
    model. Raises UserError before anything is written: for a run without rows, a model without
    what the settings ask for, a place in a run or with another fine-tuning. Raises TrainingError
    where the workers fail for good or the loss or its gradient is no number any more; checkpoints
    are kept.
    """
    # what is wrong with the run, the model or the place is said first
    need("trl", "peft", "datasets")
    if settings.parallel == "deepspeed":
        need("deepspeed", install="deepspeed")
    if not settings.model:
        raise ConfigError("no model is named: give --model")
    run = Run.open(run_location)
    check_beside(to, run.location)
    registry.check_model(settings.model)
    base = inspect(
        bundled.resolve(settings.model),
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    encoding = choose_encoding(settings.encoding, base.tokenizer, settings.model)
    job = Job(to)
    identity = _identity(run, base, settings, encoding)
    job.folder.check(identity)
    result = job.result()
    if result is None:
        # rows become tokens once; a later call finds them
        parts = None
        if job.token_counts() is None:
            listen(TrainingProgress(note="encoding the rows"))
            length = min(settings.max_length, base.context)
            encoder = Encoder(
                base.tokenizer,
                encoding,
                max_length=length,
                too_long=settings.too_long,
                stops=base.stops,
            )
            rows = training_rows(run, encoding, settings.seed, seed_tasks=settings.seed_tasks)
            parts = encode_rows(rows, encoder, run.location)
        # from the header on the place is this fine-tuning's, and one process writes
        record = _record(run, base, settings, encoding)
        job.folder.claim(identity, record)
        with job.folder.held(lambda message: listen(TrainingProgress(note=message))):
            if parts is not None:
                job.write_tokens(parts, dict(encoder.counts))
            if job.set_cut_list_aside():
                note = "the list of checkpoints was cut short and set aside: beginning anew"
                listen(TrainingProgress(note=note))
            listen(TrainingProgress(note="starting Ray"))
            with connect(address) as is_ours:
                _check_resources(settings, is_ours)
                with _watched(job, settings, listen):
                    result = _fit(job, settings, base, record)
            job.folder.write_json("result.json", result)
    return Finetuned(job.model, result)


def _identity(run: Run, base: Base, settings: Training, encoding: str) -> dict[str, Any]:
    """What the result depends on: the rows, the model, the settings."""
    stats = run.stats()
    if stats is None:
        raise RunError(f"{run.location} is not finished: run `ray-si build` on it again first")
    shards = json.dumps([shard["sha256"] for shard in stats["shards"]])
    return {
        "run": run.header["fingerprint"],
        "shards": hashlib.sha256(shards.encode()).hexdigest(),
        "model": base.digest,
        "settings": settings.identity() | {"encoding": encoding},
    }


def _record(run: Run, base: Base, settings: Training, encoding: str) -> dict[str, Any]:
    """What lies in the model's folder, with all that must not be evaluated on.

    Those are the seed tasks of the run, of what its generators were trained on, and the base.
    """
    models = [*generators_of(run.header["config"])]
    models.append(ModelName(str(settings.model), settings.revision))
    texts = texts_of_seeds(seeds_of(run.read("seeds.parquet"))) + seed_texts(models)
    return {
        "ray_si": __version__,
        "base_model": settings.model,
        "base_digest": base.digest,
        "run": run.location,
        "run_fingerprint": run.header["fingerprint"],
        "encoding": encoding,
        "settings": settings.model_dump(mode="json"),
        "seed_texts": list(dict.fromkeys(texts)),
    }


def training_rows(
    run: Run, encoding: TrainingEncoding, seed: int, *, seed_tasks: bool = False
) -> Rows:
    """Ids, prompts and completions of the run's shards; varied ones by the seed.

    With ``seed_tasks`` the instances of its seed tasks come last, ``ID#NUMBER`` each.
    """
    layout = formats.layout(
        "prompt-completion-varied" if encoding == "varied" else "prompt-completion"
    )
    draw = random.Random(seed)
    for columns in _columns(run, layout.columns, seed_tasks):
        numbers = [draw.randrange(formats.ENCODINGS) for _ in columns["id"]]
        rows = list(layout.rows(columns, numbers))
        yield columns["id"], [row["prompt"] for row in rows], [row["completion"] for row in rows]


def _columns(run: Run, names: Sequence[str], seed_tasks: bool) -> Iterator[dict[str, list[str]]]:
    """The columns of each shard, and of the seed tasks."""
    for table in Source(run).tables(["id", *names]):
        yield table.to_pydict()
    if seed_tasks:
        instances = [
            {"id": f"{seed.id}#{i}", "instruction": seed.instruction} | asdict(instance)
            for seed in seeds_of(run.read("seeds.parquet"))
            for i, instance in enumerate(seed.instances)
        ]
        yield {name: [row[name] for row in instances] for name in ("id", *names)}


def _check_resources(settings: Training, is_ours: bool) -> None:
    """ConfigError where a Ray that was started here has not what the workers need."""
    import ray

    have = ray.cluster_resources()
    for name, each in (("CPU", settings.cpus), ("GPU", float(settings.gpu))):
        if is_ours and settings.workers * each > have.get(name, 0.0):
            raise ConfigError(
                f"{settings.workers} workers ask for {settings.workers * each:g} {name} and there "
                f"are {have.get(name, 0.0):g}: set workers, cpus or gpu"
            )


def _fit(job: Job, settings: Training, base: Base, record: dict[str, Any]) -> dict[str, Any]:
    """Run the workers to the end; returns what result.json says. Raises TrainingError."""
    from ray.exceptions import RayError
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    model = settings.model or ""
    place, filesystem = _storage(job.location)
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "location": job.location,
            "settings": settings.model_dump(mode="json"),
            "model": absolute(model) if Path(model).exists() else model,
            "dtype": base.dtype,
            "record": record,
        },
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker={"CPU": settings.cpus} | ({"GPU": 1} if settings.gpu else {}),
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=place,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=settings.keep_checkpoints),
            failure_config=FailureConfig(max_failures=settings.retries),
        ),
    )

    # train, over workers that die
    started = time.perf_counter()
    try:
        result = _beside(trainer.fit)
    except (TrainingFailedError, RayError) as error:
        raise TrainingError(
            f"the training workers failed: {_last_line(error)}; the same command goes on from the "
            f"last checkpoint in {job.location}"
        ) from error
    summary: dict[str, Any] = result.return_value
    if "failure" in summary:
        raise TrainingError(summary["failure"])

    # the loss at either end, each over a tenth of the steps
    values = [line["loss"] for line in job.metrics()]
    edge = max(1, len(values) // 10)
    return {
        "rows": job.token_counts(),
        **summary,
        "first_loss": round(sum(values[:edge]) / edge, 4),
        "last_loss": round(sum(values[-edge:]) / edge, 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _beside(call: Callable[[], T]) -> T:
    """The result of a call made in another thread: in the main one Ray Train would take Ctrl-C."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed on
            future.set_exception(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    return future.result()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line]
    return lines[-1] if lines else one_line(error)


def _storage(location: str) -> tuple[str, fs.FileSystem | None]:
    """Where Ray Train keeps checkpoints: a path, and the file system it is on (none: local).

    A bucket is looked for where boto3 has it, so that all of a fine-tuning is in one store.
    """
    if not location.startswith("s3://"):
        return location, None
    store = boto3.session.Session().client("s3").meta
    is_amazon = ".amazonaws.com" in store.endpoint_url  # of whose addresses there are many
    endpoint = None if is_amazon else store.endpoint_url
    system = fs.S3FileSystem(endpoint_override=endpoint, region=store.region_name)
    return location.removeprefix("s3://"), system


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """What each Ray Train worker does; returns steps and epochs.

    Or a ``failure``, where starting the workers again would only repeat it.
    """
    import ray.train

    from ray_si.training import trainer

    settings = Training.model_validate(config["settings"])
    job = Job(config["location"])
    base = bundled.resolve(config["model"])
    last_write = 0.0

    def write(history: trainer.History, steps: int) -> None:
        job.write_metrics([line | {"steps": steps} for line in history])

    def logged(history: trainer.History, steps: int) -> None:
        nonlocal last_write
        if time.monotonic() - last_write > _METRICS_EVERY_S:
            last_write = time.monotonic()
            write(history, steps)

    def saved(folder: Path, step: int) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(folder) if folder.is_dir() else None
        ray.train.report({"step": step}, checkpoint=checkpoint)

    with TemporaryDirectory() as scratch:
        checkpoint = ray.train.get_checkpoint()
        resume = None
        if checkpoint:
            resume = Path(checkpoint.to_directory(Path(scratch) / "resume"))
        hooks = trainer.Hooks(logged, saved)
        try:
            trained = trainer.train(
                settings, base, job.tokens(), Path(scratch) / "out", resume=resume, hooks=hooks
            )
        except TrainingError as error:
            return {"failure": str(error)}
        model_folder = Path(scratch) / "model"
        trainer.finish(trained, settings, base, config["dtype"], model_folder)
        state = trained.state
        if state.is_world_process_zero:
            write(trainer.losses(state.log_history), state.max_steps)
            job.write_model(model_folder, config["record"])
    return {"steps": state.global_step, "epochs": round(state.epoch or 0.0, 4)}


@contextmanager
def _watched(
    job: Job, settings: Training, listen: Callable[[TrainingProgress], None]
) -> Iterator[None]:
    """Report the steps that metrics.jsonl shows while the block runs."""
    done = threading.Event()

    def look() -> None:
        step = -1
        while not done.wait(_METRICS_EVERY_S):
            try:
                lines = job.metrics()
            except StorageLostError:  # the workers will say so, if it stays
                continue
            if lines and lines[-1]["step"] != step:
                step = int(lines[-1]["step"])
                listen(TrainingProgress(step, int(lines[-1].get("steps", 0)), lines[-1]["loss"]))

    listen(TrainingProgress(note="starting the workers"))
    watcher = threading.Thread(target=look, name="training-metrics", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
