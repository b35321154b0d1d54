"""One fine-tuning with TRL's SFTTrainer, on the workers of whoever calls; no Ray here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer

from ray_si.errors import TrainingError
from ray_si.training.batches import Batches, PackedBatches, packs, row_numbers
from ray_si.training.config import Training

History = list[dict[str, float]]
"""What has been logged since the first step, oldest first: step, epoch, loss, ..."""

_SCHEDULES = {"constant": "constant_with_warmup"}
"""Schedules whose name in transformers is another; its own "constant" has no warm-up."""


@dataclass(frozen=True)
class Hooks:
    """What a worker tells its caller: history after each log, and each checkpoint that it wrote."""

    logged: Callable[[History, int], None] = lambda history, steps: None
    saved: Callable[[Path, int], None] = lambda folder, step: None


def has_bfloat16(gpu: bool) -> bool:
    """Whether this machine computes in bfloat16 without emulating it."""
    if gpu:
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def arguments(settings: Training, folder: Path) -> SFTConfig:
    """The settings as TRL takes them; checkpoints go to ``folder``.

    Raises what transformers and accelerate raise for impossible options of FSDP or DeepSpeed.
    """
    bfloat16 = settings.dtype == "bfloat16" or (
        settings.dtype == "auto" and has_bfloat16(settings.gpu)
    )
    sharing: dict[str, Any] = {}
    if settings.parallel == "fsdp":
        sharing = {"fsdp": True, "fsdp_config": dict(settings.fsdp)}
    elif settings.parallel == "deepspeed":
        sharing = {"deepspeed": dict(settings.deepspeed)}
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=settings.rows_at_once,
        gradient_accumulation_steps=settings.batch_size
        // (settings.rows_at_once * settings.workers),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.peak_learning_rate,
        lr_scheduler_type=_SCHEDULES.get(settings.schedule, settings.schedule),
        warmup_steps=settings.warmup,  # below 1 it is a share of all steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=bfloat16,
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=settings.log_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=1,  # what is to be kept is copied elsewhere by then
        use_cpu=not settings.gpu,
        ddp_backend="gloo" if torch.distributed.is_initialized() and not settings.gpu else None,
        dataloader_pin_memory=settings.gpu,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        **sharing,
    )


def train(
    settings: Training,
    base: str,
    tokens: pa.Table,
    folder: Path,
    *,
    resume: Path | None = None,
    hooks: Hooks | None = None,
) -> SFTTrainer:
    """Train on rows of `TOKENS` to the end of the settings, from a checkpoint or from the start.

    ``folder`` takes checkpoints while it runs. With several workers, each calls this with the same
    rows, and torch.distributed is up. Raises TrainingError where the loss or its gradient is no
    number any more.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    if not settings.gpu:
        torch.set_num_threads(math.ceil(settings.cpus))
    options = arguments(settings, folder)
    frozen = settings.method == "lora"
    source = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    dtype = torch.bfloat16 if frozen and options.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **source)
    tokenizer = AutoTokenizer.from_pretrained(base, **source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    collate, data = Batches, row_numbers(tokens)
    if settings.packing:
        check_rows_are_apart(model)
        collate, data = PackedBatches, packs(tokens, settings.max_length)
    trainer = _Trainer(
        model=model,
        args=options,
        train_dataset=data,
        data_collator=collate(tokens, tokenizer.pad_token_id),
        processing_class=tokenizer,
        peft_config=_adapters(settings) if frozen else None,
        callbacks=[_Watch(hooks or Hooks())],
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    broken = [line["step"] for line in trainer.state.log_history if not _is_sound(line)]
    if broken:
        raise TrainingError(
            f"the loss or its gradient is no number any more at step {broken[0]}; a lower "
            "learning_rate or dtype float32 may help"
        )
    return trainer


def check_rows_are_apart(model: Any) -> None:
    """Raise TrainingError where a row of a pack sees the one before it.

    Whatever the first row is, what the model says of the second has to be the same.
    """
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    second = []
    model.eval()
    with torch.inference_mode():
        for first in ([3, 4, 5, 6], [9, 8, 7, 6]):
            tokens = torch.tensor([[*first, 3, 5, 7, 9]])
            answer = model(input_ids=tokens, position_ids=positions, use_cache=False)
            second.append(answer.logits[0, 4:].float())
    model.train()
    if not torch.allclose(*second, rtol=1e-3, atol=1e-3):
        raise TrainingError("rows packed together see each other in this model: turn off packing")


def finish(trainer: SFTTrainer, settings: Training, base: str, dtype: str, folder: Path) -> None:
    """Write the model to ``folder``: whole weights of ``dtype``, or adapters that are not merged.

    Every worker calls it; the first one writes.
    """
    with TemporaryDirectory() as scratch:
        trainer.save_model(scratch)
        if not trainer.is_world_process_zero():
            return
        source = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
        trainer.processing_class.save_pretrained(folder)
        if settings.method == "full":
            model = AutoModelForCausalLM.from_pretrained(
                scratch,
                dtype=getattr(torch, dtype),
                trust_remote_code=settings.trust_remote_code,
            )
            model.config.use_cache = True  # which training may have turned off
        else:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **source)
            model = PeftModel.from_pretrained(model, scratch)
            if settings.lora.merge:
                model = model.merge_and_unload().to(getattr(torch, dtype))
        model.save_pretrained(folder)


def _adapters(settings: Training) -> LoraConfig:
    lora = settings.lora
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        revision=settings.revision,
    )


def losses(history: Sequence[dict[str, float]]) -> History:
    """The lines of a history that are about a step: its loss, learning rate, and so on.

    Without ``num_tokens``, which TRL counts from the last start only.
    """
    return [
        {name: value for name, value in line.items() if name != "num_tokens"}
        for line in history
        if "loss" in line
    ]


def _is_sound(line: dict[str, float]) -> bool:
    """Whether the loss and the gradient that a line tells of, if any, are numbers."""
    return all(math.isfinite(line.get(name, 0.0)) for name in ("loss", "grad_norm"))


class _Trainer(SFTTrainer):
    """Takes no step from a checkpoint of the last one: transformers would take one, then look."""

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **options)


class _Watch(TrainerCallback):
    """Hands on what happens; stops, and saves nothing more, where a line is not sound."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True  # no step is left that nobody has looked at

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not _is_sound(logs or {}):
            control.should_training_stop, control.should_save = True, False
        if state.is_world_process_zero:
            self._hooks.logged(losses(state.log_history), state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._hooks.saved(folder, state.global_step)
