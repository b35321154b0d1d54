"""How an engine of vLLM's that dies is told of; without vLLM, stand-ins are there for its names."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import sys
import threading
import time
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest

from ray_si.engines.base import EngineDiedError

OURS = "ray_si.engines.vllm"
THEIRS = (
    "vllm",
    "vllm.lora.request",
    "vllm.platforms",
    "vllm.sampling_params",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.exceptions",
    "vllm.v1.metrics.loggers",
)


class StandIn(ModuleType):
    """A module with an exception for every name."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


@pytest.fixture
def module(monkeypatch):
    if find_spec("vllm") is None:
        for name in THEIRS:
            monkeypatch.setitem(sys.modules, name, StandIn(name))
        monkeypatch.setitem(sys.modules, OURS, None)  # so that this one is gone after the test
        del sys.modules[OURS]
    made = importlib.import_module(OURS)
    made._last_words.cache_clear()
    yield made
    made._last_words.cache_clear()


def test_what_a_dead_engine_said_is_looked_for_once_and_beside_the_loop(module, monkeypatch):
    """A replica with hundreds of requests has to tell before Serve takes it for hung."""
    looking = set()
    monkeypatch.setattr(module, "_WORDS_S", 0.1)
    monkeypatch.setattr(module, "_last_error", lambda _: looking.add(threading.get_ident()) or "")

    async def generate(*_, **__):
        raise module.EngineDeadError
        yield

    engine = object.__new__(module.VLLMEngine)
    engine._engine = SimpleNamespace(generate=generate, errored=True)
    engine._numbers, engine._running, engine._lora = itertools.count(), 0, None

    async def ask():
        requests = [engine._run([1], None) for _ in range(300)]
        return await asyncio.gather(*requests, return_exceptions=True)

    began = time.monotonic()
    told = {(type(error), str(error)) for error in asyncio.run(ask())}
    assert told == {(EngineDiedError, "its workers died without a word")}
    with pytest.raises(EngineDiedError, match="without a word"):
        engine.check_health()
    assert threading.get_ident() not in looking
    assert time.monotonic() - began < 2
