"""Answers that travel together, whichever call they belong to."""

from __future__ import annotations

import asyncio
import random
from typing import TypeVar

import pytest
from hypothesis import given, settings, strategies as st

from ray_si.serving.outbox import Call, Outbox

T = TypeVar("T")


async def _read(call: Call[T]) -> list[list[T]]:
    return [message async for message in call.messages()]


def test_answers_of_all_calls_travel_in_the_oldest_and_each_call_ends_with_its_own():
    async def run():
        outbox: Outbox[int] = Outbox(lambda: 0.02)
        first, second = outbox.open(3), outbox.open(2)
        reading = [asyncio.create_task(_read(call)) for call in (first, second)]
        for call, answer in ((second, 3), (first, 0), (second, 4)):
            call.add(answer)
        assert await reading[1] == []  # all it waited for is sent
        first.add(1)
        await asyncio.sleep(0.05)
        first.add(2)
        assert outbox.is_idle
        return await reading[0]

    assert asyncio.run(run()) == [[3, 0, 4], [1], [2]]


def test_the_next_call_goes_on_where_the_oldest_has_ended():
    async def run():
        outbox: Outbox[int] = Outbox(lambda: 0.01)
        first, second = outbox.open(1), outbox.open(2)
        reading = [asyncio.create_task(_read(call)) for call in (first, second)]
        first.add(0)
        assert await reading[0] == [[0]]
        second.add(1)
        second.add(2)
        return await reading[1]

    assert asyncio.run(run()) == [[1, 2]]


def test_the_last_answer_of_all_waits_for_nothing():
    async def run():
        outbox: Outbox[int] = Outbox(lambda: 3600.0)
        call = outbox.open(1)
        call.add(0)
        return await asyncio.wait_for(_read(call), 1)

    assert asyncio.run(run()) == [[0]]


def test_an_error_ends_its_call_alone_and_after_what_was_sent():
    async def run():
        outbox: Outbox[int] = Outbox(lambda: 0.01)
        first, second = outbox.open(2), outbox.open(1)
        first.add(0)
        await asyncio.sleep(0.05)
        first.fail(ValueError("the engine means it"))
        messages = first.messages()
        assert await anext(messages) == [0]
        with pytest.raises(ValueError, match="means it"):
            await anext(messages)
        second.add(1)
        return await _read(second)

    assert asyncio.run(run()) == [[1]]


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_every_answer_is_sent_once_whatever_the_order(sizes, seed):
    rng = random.Random(seed)

    async def run():
        outbox: Outbox[tuple[int, int]] = Outbox(lambda: rng.choice([0.0, 0.0002]))
        answers = [(number, i) for number, size in enumerate(sizes) for i in range(size)]

        async def one(number: int) -> list[list[tuple[int, int]]]:
            await asyncio.sleep(rng.random() / 2000)
            call = outbox.open(sizes[number])
            reading = asyncio.create_task(_read(call))
            for i in range(sizes[number]):
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.random() / 5000)
                call.add((number, i))
            return await reading

        done = await asyncio.wait_for(asyncio.gather(*map(one, range(len(sizes)))), 30)
        assert outbox.is_idle
        messages = [message for each in done for message in each]
        assert all(messages)
        return sorted(answer for message in messages for answer in message) == sorted(answers)

    assert asyncio.run(run())


def test_what_waits_for_a_call_that_fails_is_sent_at_once():
    async def run():
        outbox: Outbox[int] = Outbox(lambda: 3600.0)
        failing, other = outbox.open(1), outbox.open(1)
        other.add(0)
        failing.fail(ValueError("the engine means it"))
        return await asyncio.wait_for(_read(other), 1)

    assert asyncio.run(run()) == [[0]]


def test_a_message_has_no_more_answers_than_it_should():
    async def run():
        outbox: Outbox[int] = Outbox(lambda: 3600.0)
        call = outbox.open(100)
        for answer in range(100):
            call.add(answer)
        return await _read(call)

    assert [len(message) for message in asyncio.run(run())] == [64, 36]


def test_what_is_closed_early_leaves_the_others_theirs():
    async def run():
        outbox: Outbox[int] = Outbox(lambda: 3600.0)
        gone, other = outbox.open(2), outbox.open(1)
        gone.add(0)
        outbox.close(gone)
        other.add(1)
        messages = await _read(other)
        assert outbox.is_idle
        return messages

    assert asyncio.run(run()) == [[0, 1]]
