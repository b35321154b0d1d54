"""First configurations: whatever they are made from, they are configurations."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from ray_si.config.file import parse_config
from ray_si.config.starter import WHERE, Starter
from ray_si.errors import ConfigError


def parsed(starter):
    return parse_config(yaml.safe_load(starter.text()))


@settings(max_examples=30)
@given(
    where=st.sampled_from(WHERE),
    model=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1),
    target=st.integers(1, 10**9),
    gpus=st.integers(1, 10_000),
    engine=st.sampled_from(["vllm", "transformers"]),
)
def test_any_model_and_size_give_a_configuration_that_names_them(
    where, model, target, gpus, engine
):
    config = parsed(Starter(where, model, target, gpus=gpus, engine=engine))
    assert config.generator.model == model
    assert config.target_instructions == target
    assert config.generator.replicas == (gpus if where == "gpus" else 1)
    assert config.generator.engine == ("openai" if where == "endpoint" else engine)


def test_the_key_of_a_hosted_endpoint_is_looked_for_and_that_of_a_local_one_is_not():
    local = Starter("endpoint", "m", base_url="http://localhost:8000/v1")
    assert parsed(local).generator.openai.api_key_env is None
    assert parsed(local).generator.openai.base_url == "http://localhost:8000/v1"
    assert parsed(Starter("endpoint", "m")).generator.openai.api_key_env == "OPENAI_API_KEY"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", ""])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match="is no URL of an endpoint"):
        Starter("endpoint", "m", base_url=url).text()
