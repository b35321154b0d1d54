"""A first configuration for a model of one's own, with a comment at each key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Literal, get_args
from urllib.parse import urlsplit

from ray_si.errors import ConfigError

Where = Literal["endpoint", "gpu", "gpus"]
"""Where the model runs: behind an API, on one GPU, on GPUs of a cluster."""

WHERE: tuple[Where, ...] = get_args(Where)

OnGpus = Literal["vllm", "transformers"]
"""Engines for a model on GPUs."""

ENGINES: tuple[OnGpus, ...] = get_args(OnGpus)

_SLOTS = 128
"""Requests that a replica on a GPU is expected to answer at a time."""

_MOST_PROMPTS = 100_000
_REPLICAS_A_SHARD = 8
_HOSTED = "api.openai.com"


@dataclass(frozen=True)
class Starter:
    """What a first configuration is made from.

    ``model`` is a name on the hub, a folder or, of an endpoint, the name that it knows.
    ``base_url`` counts for an endpoint, ``gpus`` and ``engine`` where the model runs on GPUs.
    """

    where: Where
    model: str
    target: int = 1000
    base_url: str = f"https://{_HOSTED}/v1"
    gpus: int = 1
    engine: OnGpus = "vllm"

    def text(self) -> str:
        """The configuration as YAML; ConfigError for a URL that is none."""
        template = resources.files("ray_si.config") / "starters" / f"{self.where}.yaml"
        return Template(template.read_text(encoding="utf-8")).substitute(
            target=self.target,
            model=json.dumps(self.model, ensure_ascii=False),  # a JSON text is YAML, too
            base_url=json.dumps(self._checked_url()),
            api_key_env="OPENAI_API_KEY" if urlsplit(self.base_url).hostname == _HOSTED else "null",
            engine=self.engine,
            gpus=self.gpus,
            prompts=min(2 * _SLOTS * self.gpus, _MOST_PROMPTS),
            shards=max(1, self.gpus // _REPLICAS_A_SHARD),
        )

    def _checked_url(self) -> str:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigError(
                f"{self.base_url} is no URL of an endpoint; write http://host:8000/v1"
            )
        return self.base_url
