"""Sections of the configuration that belong to one engine each."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ray_si.config.secrets import secrets_in
from ray_si.config.sections.base import Section


class ReplayOptions(Section):
    """Of the replay engine: see `ray_si.engines.replay.engine`."""

    recording: str | None = None
    """JSONL of recorded answers; none means scripted ones."""
    latency_s: float = Field(0.0, ge=0)
    """Median latency of a request, in seconds."""
    latency_sigma: float = Field(0.0, ge=0)
    """Standard deviation of the latency's logarithm."""
    start_s: float = Field(0.0, ge=0)
    """Mean time that a replica takes to start, in seconds; it is exponentially distributed."""
    failing_starts: float = Field(0.0, ge=0, lt=1)
    """Share of starts that fail."""


class VLLMOptions(Section):
    """Of the vllm engine; a replica takes tensor_parallel_size x pipeline_parallel_size GPUs."""

    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs over which each layer is spread."""
    pipeline_parallel_size: int = Field(1, ge=1)
    """Groups of layers, each on GPUs of its own."""
    enable_prefix_caching: bool = True
    """Keep what prompts have in common: few-shot prefixes are long and the same."""
    max_model_len: int | None = Field(None, ge=1)
    """Longest prompt with completion, in tokens; null takes the model's own context."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of a GPU's memory for weights and cache."""
    quantization: str | None = None
    """Method of a quantized model, such as awq or fp8; null takes what its configuration says."""
    lora: str | None = None
    """LoRA adapter that is laid over the model: a folder on every node, or s3:// or gs://."""
    engine_kwargs: dict[str, Any] = Field({})
    """Further arguments of vLLM's engine, by the names that vLLM gives them; no secrets.
    max_num_seqs is the generator's max_batch, too."""

    @property
    def gpus(self) -> int:
        """GPUs over which one replica's model is spread."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @field_validator("engine_kwargs")
    @classmethod
    def _without_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        if secrets := secrets_in(value, "engine_kwargs"):
            raise ValueError(
                f"{secrets[0]} looks like a secret, and would be stored in the run; put it into "
                "the environment of the nodes (HF_TOKEN, say)"
            )
        return value

    @field_validator("engine_kwargs")
    @classmethod
    def _further(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in given:
            if name in cls.model_fields:
                raise ValueError(f"{name} has a key of its own: vllm.{name}")
            if name in _OF_THE_GENERATOR:
                raise ValueError(f"{name} has a key of its own: generator.{name}")
            if name.startswith("data_parallel"):
                raise ValueError(
                    f"{name} cannot be used: copies of a model are replicas here, so set "
                    "generator.replicas (enable_expert_parallel spreads a mixture's experts over "
                    "the GPUs of one replica)"
                )
        slots = given.get("max_num_seqs")
        if slots is not None and (not isinstance(slots, int) or slots < 1):
            raise ValueError("max_num_seqs must be a whole number from 1 on")
        if given.get("enable_lora"):
            raise ValueError("enable_lora is set where vllm.lora names an adapter")
        return given


class OpenAIOptions(Section):
    """Of the openai engine: an OpenAI-compatible endpoint, hosted or your own."""

    base_url: str = "https://api.openai.com/v1"
    """Where /completions and /chat/completions are."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key, on every node; null where none is needed."""
    concurrency: int = Field(32, ge=1)
    """Most requests in flight, of all replicas together: each has an equal share, rounded up."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Most requests a minute, of all replicas together; null leaves it to the endpoint."""
    tokens_per_minute: float | None = Field(None, gt=0)
    """Most prompt and completion tokens a minute, of all replicas together."""
    timeout_s: float = Field(120.0, gt=0)
    """Longest wait for an answer, in seconds."""
    retries: int = Field(5, ge=0)
    """Further tries after server errors, lost connections and timeouts; 429 is not counted."""
    outage_s: float = Field(600.0, gt=0)
    """How long an endpoint may fail or refuse everything before the run stops, in seconds."""
    omit: tuple[
        Literal["seed", "stop", "temperature", "top_p", "top_k", "presence_penalty", "logprobs"],
        ...,
    ] = ()
    """Parameters that the endpoint doesn't take."""
    extra_body: dict[str, Any] = Field({})
    """Further parameters of every request, such as {reasoning_effort: low}; no secrets."""

    @field_validator("extra_body")
    @classmethod
    def _without_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        if secrets := secrets_in(value, "extra_body"):
            raise ValueError(
                f"{secrets[0]} looks like a secret, and would be stored in the run and its report; "
                "a key comes from the environment variable that api_key_env names"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _public(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write http://host or https://host, with port and path if any")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "no user, password or query here, since it is stored in the run; a key comes from "
                "the environment variable that api_key_env names"
            )
        return value.rstrip("/")


_OF_THE_GENERATOR = ("model", "revision", "dtype", "trust_remote_code")

_PACING_ARGUMENTS = frozenset(
    {
        *("max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "async_scheduling"),
        *("long_prefill_token_threshold", "max_num_scheduled_tokens", "max_num_active_seqs"),
        *("scheduling_policy", "stream_interval", "performance_mode", "enable_expert_parallel"),
        *("kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size", "cpu_offload_gb"),
        *("kv_offloading_size", "kv_offloading_backend", "prefix_caching_hash_algo"),
        *("enforce_eager", "compilation_config", "optimization_level", "cudagraph_capture_sizes"),
        *("max_cudagraph_capture_size", "disable_custom_all_reduce", "disable_log_stats"),
        *("load_format", "model_loader_extra_config", "download_dir", "safetensors_load_strategy"),
        *("max_parallel_loading_workers", "distributed_executor_backend", "ignore_patterns"),
        *("ray_workers_use_nsight", "shutdown_timeout", "numa_bind"),
    }
)
"""Further arguments of vLLM that change how fast it works and in how much memory, not what it
means to write. All others belong to what a run is."""

PACING = {
    "vllm": (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "enable_prefix_caching",
        "gpu_memory_utilization",
        "max_model_len",  # which the longest prompts of a run fit, or it isn't begun
    ),
    "replay": ("latency_s", "latency_sigma", "start_s", "failing_starts"),
    "openai": (
        "base_url",
        "api_key_env",
        "concurrency",
        "requests_per_minute",
        "tokens_per_minute",
        "timeout_s",
        "retries",
        "outage_s",
    ),
}
"""Options that only place or pace the work; a run's results don't depend on them."""


def lasting(engine: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of an engine that a run's results depend on."""
    kept = {name: value for name, value in options.items() if name not in PACING[engine]}
    if engine == "vllm":
        arguments = options["engine_kwargs"]
        kept["engine_kwargs"] = {
            name: value for name, value in arguments.items() if name not in _PACING_ARGUMENTS
        }
        kept["max_model_len"] = None  # as in runs that were begun while it counted, and named none
    return kept
