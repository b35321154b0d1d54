"""How a model is fine-tuned, and how models are evaluated."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ray_si.config.sections.base import Section

Encoding = Literal["auto", "chat", "text"]
"""How an instruction is put to a model: by its chat template, or as plain text (the instruction,
the input after a blank line, and another blank line). "auto" is chat where there is a template."""


TrainingEncoding = Encoding | Literal["varied"]
"""Besides, as the paper encodes them, each row in one of 16 ways: "Task:", "Input:" and "Output:"
there or not, one line break or two. What is tuned so may be asked as plain text, one of the 16."""


class Lora(Section):
    """Low-rank adapters (arXiv 2106.09685), by PEFT."""

    rank: int = Field(16, ge=1)
    """Rank of the added matrices."""
    alpha: float = Field(32, gt=0)
    """Scale: what the adapters add is multiplied by alpha/rank."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout on what goes into the adapters."""
    targets: str | list[str] = "all-linear"
    """Names of the layers that get adapters, or "all-linear"."""
    merge: bool = True
    """Add the adapters to the weights at the end, so that the result is a model like any other;
    else the result is the adapters alone, which need PEFT and the base model to load."""


class Training(Section):
    """One fine-tuning."""

    model: str | None = None
    """A bundled name, a folder, or a name on the hub; `--model` sets it."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python code."""
    method: Literal["lora", "full"] = "lora"
    """Train adapters, or all weights."""
    lora: Lora = Lora()
    encoding: TrainingEncoding = "auto"
    """How rows become tokens; varied draws the way of each row by ``seed``."""
    max_length: int = Field(1024, ge=8)
    """Longest row, in tokens; the model's context where that is shorter."""
    too_long: Literal["drop", "truncate"] = "drop"
    """What happens to longer rows; they are counted either way. A row whose prompt alone fills the
    length is dropped always, since nothing would be left to learn."""
    seed_tasks: bool = False
    """Train on the instances of the run's seed tasks too, as the paper's code can."""
    packing: bool = False
    """Put short rows one after another up to `max_length`, which wastes less on padding; they do
    not attend to each other. A row of `batch_size` and `rows_at_once` is such a pack then."""
    epochs: float = Field(2.0, gt=0)
    """Passes over the rows (the paper: 2)."""
    max_steps: int | None = Field(None, ge=1)
    """Steps after which training stops, whatever `epochs` says."""
    batch_size: int = Field(16, ge=1)
    """Rows of an optimizer step, over all workers."""
    rows_at_once: int = Field(8, ge=1)
    """Rows that a worker takes through the model together; gradients are accumulated up to
    `batch_size`."""
    learning_rate: float | None = Field(None, gt=0)
    """Highest learning rate; none is 2e-4 for LoRA and 2e-5 for all weights."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number type of the arithmetic; auto is bfloat16 where the hardware has it. Weights that are
    trained stay in float32."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, a third more time."""
    seed: int = Field(0, ge=0)
    """Seed of the order of rows, of dropout and of the adapters' first weights."""
    log_steps: int = Field(1, ge=1)
    """Steps between two lines of metrics.jsonl, which has the first and the last step besides."""
    checkpoint_steps: int = Field(50, ge=1)
    """Steps between two checkpoints, from which training goes on after a crash."""
    keep_checkpoints: int = Field(2, ge=1)
    """Latest checkpoints kept."""
    workers: int = Field(1, ge=1)
    """Ray Train workers; `--workers` sets it."""
    cpus: float = Field(1.0, gt=0)
    """Processor cores reserved for a worker, which are also its torch threads."""
    gpu: bool = False
    """Whether each worker has a GPU."""
    retries: int = Field(2, ge=0)
    """How often workers that died are started again, from the latest checkpoint."""
    parallel: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """How several workers share the work: whole models, or sharded by FSDP or DeepSpeed."""
    fsdp: dict[str, Any] = Field(default_factory=dict)
    """Options of FSDP, as transformers' `fsdp_config` takes them."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's configuration; values may be "auto"."""

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.batch_size % (self.workers * self.rows_at_once):
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of workers x rows_at_once "
                f"({self.workers} x {self.rows_at_once})"
            )
        for name in ("fsdp", "deepspeed"):
            if getattr(self, name) and self.parallel != name:
                raise ValueError(f"{name} has options, and parallel is {self.parallel}")
        if self.parallel == "deepspeed" and not self.deepspeed:
            raise ValueError("parallel is deepspeed, which needs its configuration in deepspeed")
        if self.parallel != "ddp" and not self.gpu:
            raise ValueError(f"parallel: {self.parallel} needs gpu: true")
        return self

    def identity(self) -> dict[str, Any]:
        """The part that the result depends on: without what only places or paces the work."""
        values = self.model_dump(mode="json")
        for name in _PLACEMENT:
            del values[name]
        return values

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the method's own."""
        return self.learning_rate or {"lora": 2e-4, "full": 2e-5}[self.method]


_PLACEMENT = (
    "model", "workers", "rows_at_once", "cpus", "gpu", "retries", "parallel", "fsdp", "deepspeed",
    "gradient_checkpointing", "log_steps", "checkpoint_steps", "keep_checkpoints",
)  # fmt: skip


class Evaluation(Section):
    """How models are asked and scored."""

    encoding: Encoding = "auto"
    """How instructions are put to each model."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer."""
    instances_per_task: int = Field(100, ge=1)
    """Instances of a task that are asked, from its first on."""
    block_size: int = Field(32, ge=1)
    """Answers that are stored together, as soon as all of them are there."""
    positive_examples: Literal[0, 2] = 0
    """Examples that the prompts of Super-NaturalInstructions show, as benchmarks: none, as in the
    Self-Instruct paper, or the first two, as most published scores have it."""
    rouge_tokenizer: str = "gpt2"
    """Folder, or name on the hub, of the tokenizer by which ROUGE-L of other languages is reckoned
    where a benchmark asks for it."""
    exclude_rouge: float = Field(0.7, gt=0, le=1)
    """Tasks whose ROUGE-L F with a seed task behind a model's training is above this are left out,
    for all models."""
    exclude_cosine: float | None = Field(0.9, gt=0, le=1)
    """The same by cosine similarity; none leaves it at ROUGE-L."""
    embedder: str = "all-minilm-l6-v2"
    """Model of that cosine: a bundled name, a folder, or a name on the hub."""
    resamples: int = Field(10_000, ge=100)
    """Resamples of the bootstrap."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Confidence of the intervals."""
    rated: int = Field(50, ge=0)
    """Examples on the page for raters, drawn at random."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap, of the page's examples and their order."""
