"""The language model of a configuration, how it is hosted, and how its completions are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ray_si.config.sections.base import Section as _Section
from ray_si.config.sections.engine_options import OpenAIOptions, ReplayOptions, VLLMOptions
from ray_si.engines.base import SamplingParams

_BATCH = 32
"""Requests that an engine answers at once, where neither the configuration nor it says."""

_USUAL_BATCH = {"vllm": 256}
"""What vLLM chooses on most hardware; a replica tells how many it really has."""

_MOST_PENALTY = 2.0
"""Of presence, that vLLM and OpenAI's interface take."""


class Sampling(_Section):
    """How completions of one kind are drawn."""

    max_tokens: int = Field(256, ge=1)
    """Longest completion, in tokens."""
    temperature: float = Field(0.7, ge=0)
    """Temperature of the distribution; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus: the smallest set of tokens with this much probability."""
    top_k: int = Field(0, ge=0)
    """Only the k likeliest tokens; 0 is off."""
    presence_penalty: float = 0.0
    """Taken once from the logit of every token already written."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; empty takes those of the prompt template."""

    def params(self, template_stop: tuple[str, ...]) -> SamplingParams:
        """As an engine takes it."""
        values = self.model_dump()
        return SamplingParams(**values | {"stop": self.stop or template_stop})


class SamplingByPurpose(_Section):
    """One set of sampling parameters for each kind of request.

    A key that is left out is as the default of its kind has it, whatever else is set there.
    """

    instructions: Sampling = Sampling(max_tokens=512, temperature=0.9, top_p=0.9)
    joint: Sampling = Sampling(max_tokens=1024, temperature=0.9, top_p=0.9)
    classification: Sampling = Sampling(max_tokens=3, temperature=0.0)
    input_first: Sampling = Sampling(max_tokens=350, temperature=0.7, top_p=0.9)
    output_first: Sampling = Sampling(max_tokens=300, temperature=0.7, top_p=0.9)
    input: Sampling = Sampling(max_tokens=200, temperature=0.7, top_p=0.9)
    answer: Sampling = Sampling(max_tokens=350, temperature=0.7, top_p=0.9)

    @field_validator("*")
    @classmethod
    def _rest_as_usual(cls, given: Sampling, info: ValidationInfo) -> Sampling:
        """With what is left out as the purpose has it, which does not count as set."""
        assert info.field_name
        usual = dict(cls.model_fields[info.field_name].default)
        values = usual | given.model_dump(exclude_unset=True)
        return Sampling.model_construct(given.model_fields_set, **values)

    def as_begun(self, stored: Mapping[str, Any]) -> SamplingByPurpose:
        """With what earlier versions took for keys that are left out of a purpose that is given.

        That was `Sampling`'s own default, and is where a run of these ``stored`` values has it.
        """
        changed = {}
        for purpose in self.model_fields_set:
            given, begun = getattr(self, purpose), stored.get(purpose, {})
            former = {
                key: value
                for key, value in Sampling()
                if key not in given.model_fields_set and begun.get(key) == value
            }
            changed[purpose] = given.model_copy(update=former)
        return self.model_copy(update=changed)


class Prices(_Section):
    """What the model's tokens cost, in dollars per million."""

    prompt: float = Field(0.0, ge=0)
    """Price of prompt tokens."""
    completion: float = Field(0.0, ge=0)
    """Price of completion tokens."""

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Generator(_Section):
    """The language model and how it is hosted."""

    engine: Literal["transformers", "vllm", "openai", "replay", "reward"] = "transformers"
    """The engine that runs the model; reward writes nothing and is for a score of that kind."""
    model: str | None = "smollm2-135m-instruct"
    """A bundled name, a folder, or a name on the Hugging Face hub; the endpoint's own name for it
    (openai); replay needs none."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    prompt_style: Literal["completion", "chat"] = "completion"
    """Few-shot text for base models, chat turns for instruct models."""
    replicas: int = Field(1, ge=1)
    """Serve replicas; with ``max_replicas``, the fewest."""
    min_replicas: int = Field(1, ge=1)
    """Replicas with which work begins; the others join in as they start."""
    max_replicas: int | None = Field(None, ge=1)
    """Serve adds replicas up to so many while requests wait, and takes idle ones away."""
    cpus: float = Field(1.0, ge=0)
    """Processor cores reserved for a replica."""
    gpus: float = Field(0.0, ge=0)
    """GPUs reserved for a replica; a share of one, or a number of them. The transformers engine
    spreads a model's layers over several."""
    accelerator: str | None = None
    """Kind of GPU that a replica must have, as Ray names it: A100, H100, L4 ..."""
    threads: int | None = Field(None, ge=1)
    """Torch threads of a replica; none leaves it to torch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the weights; auto is bfloat16 where the hardware has it."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python code."""
    chat_template_kwargs: dict[str, Any] = Field({})
    """Arguments of the model's chat template, such as {enable_thinking: false}; an endpoint's
    server gets them, too."""
    max_batch: int | None = Field(None, ge=1)
    """Most requests that a replica answers at once; none takes the engine's own: 32, or what vLLM
    finds right for the hardware (256 to 1,024 on a GPU)."""
    batch_tokens: int = Field(32768, ge=256)
    """Most prompt and completion tokens in a batch of the transformers engine, padding included."""
    request_timeout_s: float | None = Field(None, gt=0)
    """A request that takes longer on its replica becomes an error row; none waits."""
    stall_s: float | None = Field(300.0, gt=0)
    """A replica whose engine has work and writes not one token for so long hangs, and is replaced;
    none waits. Of transformers and vllm: endpoints have timeouts of their own."""
    sampling: SamplingByPurpose = SamplingByPurpose()
    """Sampling parameters by purpose."""
    prices: Prices | None = None
    """What tokens cost, for reports and ``budget.dollars``."""
    vllm: VLLMOptions = VLLMOptions()
    """Options of the vllm engine."""
    openai: OpenAIOptions = OpenAIOptions()
    """Options of the openai engine."""
    replay: ReplayOptions = ReplayOptions()
    """Options of the replay engine."""

    @model_validator(mode="before")
    @classmethod
    def _without_batching(cls, values: Any) -> Any:
        """Configurations and runs of older versions have it; it only paced the work."""
        if isinstance(values, dict) and "batching" in values:
            return {name: value for name, value in values.items() if name != "batching"}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Generator:
        if self.engine != "replay" and not self.model:
            raise ValueError("model is needed unless engine is replay")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas is less than replicas")
        if self.min_replicas > self.replicas:
            raise ValueError("min_replicas is more than replicas")
        if self.chat_template_kwargs and self.prompt_style != "chat":
            raise ValueError("chat_template_kwargs needs prompt_style chat")
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError("gpus must be a whole number, or less than 1")
        if self.engine == "vllm":
            self._check_gpus()
        if self.engine in ("vllm", "openai"):
            for purpose, sampling in self.sampling:
                if abs(sampling.presence_penalty) > _MOST_PENALTY:
                    raise ValueError(
                        f"sampling.{purpose}.presence_penalty must lie between -{_MOST_PENALTY:g} "
                        f"and {_MOST_PENALTY:g} for the {self.engine} engine"
                    )
        return self

    def _check_gpus(self) -> None:
        """Raise ValueError where vLLM would leave GPUs idle, or take more of one than it has."""
        need, share = self.vllm.gpus, self.vllm.gpu_memory_utilization
        if max(need, self.gpus) > 1 and self.gpus != need:
            raise ValueError(
                f"gpus must be {need}, what vllm.tensor_parallel_size x pipeline_parallel_size "
                "takes for each replica"
            )
        if 0 < self.gpus < 1 and share >= self.gpus:
            raise ValueError(
                f"gpus {self.gpus:g} is a share of one that others use too, and vLLM would take "
                f"{share:g} of its memory: set vllm.gpu_memory_utilization to less than gpus, "
                f"such as {0.9 * self.gpus:.2g}"
            )

    @property
    def most_replicas(self) -> int:
        """How many there may be."""
        return self.max_replicas or self.replicas

    @property
    def batch(self) -> int:
        """Requests that one replica answers at once, as far as that is known before it runs."""
        named = self.vllm.engine_kwargs.get("max_num_seqs") if self.engine == "vllm" else None
        return named or self.max_batch or _USUAL_BATCH.get(self.engine, _BATCH)

    @property
    def slots(self) -> int:
        """Requests that all replicas answer at once, as far as that is known before they run."""
        if self.engine == "openai":
            return self.openai.concurrency
        return self.most_replicas * self.batch

    def engine_options(self) -> dict[str, Any]:
        """Keyword arguments of the engine on each replica, model aside."""
        if self.engine == "replay":
            return {"slots": self.batch, **self.replay.model_dump()}
        if self.engine == "openai":
            replicas, options = self.most_replicas, self.openai.model_dump()
            options["concurrency"] = -(-options["concurrency"] // replicas)
            for name in ("requests_per_minute", "tokens_per_minute"):
                if options[name]:
                    options[name] /= replicas
            return options | self._template
        names = ["revision", "dtype", "trust_remote_code", "stall_s"]
        options = {name: getattr(self, name) for name in names} | self._template
        if self.engine == "vllm":
            return options | {"max_batch": self.max_batch} | self.vllm.model_dump()
        own = {"max_batch": self.batch, "batch_tokens": self.batch_tokens, "threads": self.threads}
        return options | own

    @property
    def _template(self) -> dict[str, Any]:
        arguments = self.chat_template_kwargs
        return {"chat_template_kwargs": arguments} if arguments else {}
