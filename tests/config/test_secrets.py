"""Secrets are known by their kind: by what their names say, and by how they look."""

from __future__ import annotations

import pytest

from ray_si.config.file import parse_config
from ray_si.config.secrets import is_secret, secrets_in
from ray_si.errors import ConfigError

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "name",
    [
        "PGPASSWORD", "DB_PWD", "MYSQL_PWD", "DB_PASS", "dbPass", "db-pass", "GITHUB_PAT",
        "api_key", "apiKey", "APIKEY", "X-Api-Key", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "sessionToken",
        "authtoken", "Authorization", "PROXY_AUTHORIZATION", "REDIS_AUTH", "client_secret",
        "GOOGLE_APPLICATION_CREDENTIALS", "PASSPHRASE", "Cookie", "azureSas",
    ],
)  # fmt: skip
def test_a_name_that_says_secret_makes_one(name):
    assert is_secret(name, "hush")
    assert not is_secret(name, "")


@pytest.mark.parametrize(
    "value",
    [
        "postgres://me:hush@host/db", "https://key@sentry.example/1", "https://host/v1?api_key=hush",
        "sk-" + "a1" * 12, "sk-ant-" + "a1" * 12, "sk_live_" + "a1" * 12, "ghp_" + "a" * 36,
        "github_pat_" + "a1" * 12, "glpat-" + "a1" * 10, "hf_" + "a" * 34, "AKIA" + "A" * 16,
        "Bearer abcdefgh12", JWT, "-----BEGIN RSA PRIVATE KEY-----\nMII", "xoxb-" + "1" * 20,
        "host=db password=hush", "DefaultEndpointsProtocol=https;AccountKey=hush",
    ],
)  # fmt: skip
def test_a_value_that_looks_like_a_key_is_one_under_any_name(value):
    assert is_secret("X", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_DEFAULT_REGION", "eu-north-1"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/token"),
        ("AWS_ENDPOINT_URL", "https://store.example:9000"),
        ("HTTP_PROXY", "http://proxy:3128"),
        ("RAY_AUTH_MODE", "token"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("PYTHONPATH", "/opt/bypass:/compass"),
        ("prompt_cache_key", "a-run"),
        ("max_tokens", 5),
        ("stop_token_ids", 2),
        ("token", True),
        ("reasoning_effort", "low"),
        ("KEYBOARD", "us"),
        ("X", "http://[half"),
        ("X", "a=b"),
    ],
)
def test_what_only_resembles_one_is_none(name, value):
    assert not is_secret(name, value)


def test_secrets_are_found_at_any_depth_and_named_with_their_path():
    body = {"logit_bias": {"50256": -100}, "stop_token_ids": [1, 2]}
    assert secrets_in(body, "extra_body") == []
    body |= {"metadata": {"headers": [{"Authorization": "hush"}]}}
    assert secrets_in(body, "extra_body") == ["extra_body.metadata.headers.Authorization"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"openai": {"extra_body": {"api_key": "hush"}}}, "api_key_env"),
        ({"openai": {"extra_body": {"headers": {"Authorization": "hush"}}}}, "api_key_env"),
        ({"openai": {"extra_body": {"x": "sk-" + "hush" * 6}}}, "api_key_env"),
        ({"vllm": {"engine_kwargs": {"hf_token": "hush"}}}, "environment of the nodes"),
    ],
)
def test_a_configuration_with_a_secret_is_refused_without_repeating_it(section, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config({"generator": section})
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)
