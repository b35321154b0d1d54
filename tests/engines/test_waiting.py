"""A request answered from another thread than the one that awaits it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.engines.waiting import Waiting

REQUEST = Request("a prompt", SamplingParams(max_tokens=5), seed=1)


def from_a_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


def test_the_first_answer_counts():
    async def ask():
        waiting = Waiting(REQUEST, [1, 2, 3])
        assert waiting.tokens == 8
        from_a_thread(waiting.resolve, Completion("first", "stop"))
        from_a_thread(waiting.resolve, Completion("second", "stop"))
        from_a_thread(waiting.fail, RuntimeError("late"))
        return await waiting.answer

    assert asyncio.run(ask()).text == "first"


def test_a_failure_is_raised_where_the_answer_is_awaited():
    async def ask():
        waiting = Waiting(REQUEST, [])
        from_a_thread(waiting.fail, RuntimeError("out of memory"))
        await waiting.answer

    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(ask())


def test_a_caller_that_has_gone_is_no_error():
    async def give_up():
        waiting = Waiting(REQUEST, [])
        waiting.answer.cancel()
        from_a_thread(waiting.resolve, Completion("for nobody", "stop"))
        await asyncio.sleep(0)
        return waiting

    waiting = asyncio.run(give_up())
    waiting.resolve(Completion("its loop is closed", "stop"))
    assert waiting.answer.cancelled()
