"""Whole builds on real vLLM, where it is installed; ``make test-vllm`` runs them on a processor."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.errors import GenerationError
from tests.builds import digests, rays_processes

pytestmark = pytest.mark.slow


def values(**vllm):
    """A small build: float32, so that neighbours in a batch hardly touch the logits.

    Of the machine's memory vLLM takes 90 %, unless it is told.
    """
    arguments = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30}
    arguments |= vllm.pop("engine_kwargs", {})
    return {
        "target_instructions": 6,
        "generator": {
            "engine": "vllm",
            "dtype": "float32",
            "max_batch": 8,
            "stall_s": 20,
            "vllm": {"max_model_len": 4096, "engine_kwargs": arguments, **vllm},
            "sampling": {
                purpose: {"max_tokens": 96, "temperature": 0.8, "top_p": 0.9}
                for purpose in ("instructions", "input_first", "output_first")
            },
        },
        "bootstrap": {"prompts_per_round": 8, "block_size": 4, "on_stall": "finish"},
        "dedup": {"cosine": None},
        "output": {"format": "jsonl"},
    }


@pytest.fixture(scope="session", autouse=True)
def offline():
    """vLLM asks nobody; set before the session's Ray starts."""
    pytest.importorskip("vllm")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_NO_USAGE_STATS", "1")
        environment.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def undisturbed(offline, ray_session, tmp_path_factory):
    run = tmp_path_factory.mktemp("vllm") / "run"
    result = build(parse_config(values()), str(run))
    assert result.stats["accepted"] >= 6
    return run


def engines():
    """The replicas of generators, and the processes that each has below it."""
    for replica in rays_processes("ray::ServeReplica"):
        if children := replica.children(recursive=True):
            yield replica, children


class Disturbance(threading.Thread):
    """Does something once to the first replica that is answering requests."""

    def __init__(self, hurt):
        super().__init__(daemon=True)
        self._hurt, self._is_busy = hurt, threading.Event()
        self.lost = []
        self.notes = []
        self.start()

    def listen(self, progress):
        self.notes.append(progress.note)
        if progress.usage.running:
            self._is_busy.set()

    def run(self):
        self._is_busy.wait()
        replica, children = next(engines())
        self.lost = children
        self._hurt(replica, children)


def kill_replica(replica, children):
    replica.kill()


def stop_engine(replica, children):
    for process in children:
        with suppress(psutil.NoSuchProcess):
            process.suspend()


@pytest.mark.parametrize("hurt", [kill_replica, stop_engine])
def test_a_build_whose_replica_is_killed_or_hangs_ends_with_the_same_bytes(
    undisturbed, tmp_path, hurt
):
    disturbance = Disturbance(hurt)
    build(parse_config(values()), str(tmp_path / "run"), listen=disturbance.listen)
    assert digests(tmp_path / "run") == digests(undisturbed)
    assert disturbance.lost
    _, alive = psutil.wait_procs(disturbance.lost, timeout=10)
    assert not alive  # and their memory is free again
    if hurt is stop_engine:
        assert any("took no step" in note for note in disturbance.notes)


def test_no_engine_is_left_when_a_build_has_ended(undisturbed):
    deadline = time.monotonic() + 20
    while left := list(engines()):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def test_an_engine_that_dies_whatever_it_is_asked_ends_the_build_with_its_own_error(
    ray_session, tmp_path
):
    """Prompts in parts are what kills a processor's engine, unless we see to it."""
    parts = {"enable_chunked_prefill": True, "max_num_batched_tokens": 128}
    config = parse_config(values(engine_kwargs=parts))
    notes = []
    with pytest.raises(GenerationError, match="whatever it was asked; the last said: RuntimeError"):
        build(config, str(tmp_path / "run"), listen=lambda p: notes.append(p.note))
    assert any("a replica died: RuntimeError" in note for note in notes)


def test_a_model_that_vllm_cannot_run_is_one_line_and_nothing_is_begun(ray_session, tmp_path):
    from ray_si.errors import EngineError

    config = parse_config(values(quantization="awq"))
    with pytest.raises(EngineError, match=r"could not be started.*awq") as refused:
        build(config, str(tmp_path / "run"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_sigterm_to_a_replica_ends_its_engine(undisturbed, ray_session, tmp_path):
    seen = []

    def terminate(replica, children):
        seen.extend(children)
        os.kill(replica.pid, signal.SIGTERM)

    disturbance = Disturbance(terminate)
    build(parse_config(values()), str(tmp_path / "run"), listen=disturbance.listen)
    assert digests(tmp_path / "run") == digests(undisturbed)
    assert not psutil.wait_procs(seen, timeout=10)[1]
