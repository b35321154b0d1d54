"""Options of one engine each: what reaches the engine, and what is left aside."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.errors import ConfigError


def test_batching_paces_the_transformers_engine_and_leaves_room_for_others_on_a_gpu():
    made = [parse_config({"generator": {"batching": each}}) for each in ("static", "continuous")]
    assert made[0].fingerprint("") == made[1].fingerprint("")
    assert made[1].generator.engine_options()["batching"] == "continuous"
    assert "gpu_share" not in made[1].generator.engine_options()
    half = parse_config({"generator": {"gpus": 0.5}}).generator.engine_options()
    assert half["gpu_share"] == 0.5
    with pytest.raises(ConfigError, match="batching"):
        parse_config({"generator": {"batching": "dynamic"}})


def test_limits_of_an_endpoint_are_shared_among_replicas():
    openai = {"concurrency": 10, "requests_per_minute": 60, "tokens_per_minute": None}
    values = {"engine": "openai", "model": "m", "replicas": 4, "openai": openai}
    generator = parse_config({"generator": values}).generator
    options = generator.engine_options()
    assert (options["concurrency"], options["requests_per_minute"]) == (3, 15)
    assert options["tokens_per_minute"] is None
    assert generator.slots == 10
