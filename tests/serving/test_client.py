"""Requests through a real Serve: engines that fail, hang, or take their replica with them."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException

from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.errors import BudgetError, GenerationError
from ray_si.serving import client as client_module
from ray_si.serving.client import Client
from ray_si.serving.loads import RUNNING
from ray_si.serving.replicas import GeneratorReplica, ReplicaReply, Replies
from tests.loopback import StreamingHandle


class TroubledEngine:
    """Answers with the prompt; some prompts make trouble."""

    slots = capacity = 4

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.began: dict[str, float] = {}

    async def generate(self, request: Request) -> Completion:
        prompt = str(request.prompt)
        self.seen[prompt] = self.seen.get(prompt, 0) + 1
        if prompt.startswith("kill"):
            os._exit(1)
        if prompt.startswith("once") and not os.path.exists(flag := prompt.split()[1]):
            open(flag, "w").close()
            os._exit(1)
        if prompt.startswith("half a pair"):
            raise RuntimeError("cannot take \ud83d")
        if prompt.startswith("hang"):
            await asyncio.sleep(3600)
        if prompt.startswith("never") or (prompt.startswith("twice") and self.seen[prompt] < 3):
            raise RuntimeError("out of memory")
        began = self.began.setdefault(prompt, time.monotonic())
        if prompt.startswith("not yet") and time.monotonic() - began < 0.8:
            raise RuntimeError("out of memory for now")
        await asyncio.sleep(0.05)
        return Completion(prompt.upper(), "stop", 1, 1)

    def check_health(self) -> None:
        pass

    def mark(self) -> None:
        pass


class TroubledReplica(GeneratorReplica):
    def __init__(self, timeout_s: float | None = None, flag: str | None = None) -> None:
        if flag and os.path.exists(flag):
            raise RuntimeError("the GPU has fallen off the bus")
        super().__init__("replay", None, {}, timeout_s)
        self._engine = TroubledEngine()


@contextmanager
def deployments() -> Iterator[Callable[..., str]]:
    """Deploys `TroubledReplica` under a name, which it returns; all are removed after."""
    names = []

    def run(name: str, *arguments: object) -> str:
        replica = serve.deployment(TroubledReplica).options(
            max_ongoing_requests=100, ray_actor_options={"num_cpus": 0}
        )
        serve.run(replica.bind(*arguments), name=name, route_prefix=None)
        names.append(name)
        return name

    serve.start(proxy_location="Disabled")
    yield run
    for name in names:
        serve.delete(name)


@pytest.fixture
def deploy(request, ray_session):
    """Deploys `TroubledReplica` for a test alone; its application."""
    with deployments() as run:
        yield partial(run, request.node.name)


@pytest.fixture(scope="module")
def app(ray_session):
    """The application of a `TroubledReplica`, for tests that leave it alive."""
    with deployments() as run:
        yield run("troubled")


def ask(
    app: str,
    prompts: list[str],
    window: int = 8,
    replica_slots: int | None = None,
    until: float | None = None,
    limit_s: float = 240,
) -> list[Completion]:
    async def run() -> list[Completion]:
        client = Client(app, window, (0,), replica_slots=replica_slots, until=until)
        async with client.watched():
            requests = [Request(prompt, SamplingParams(), seed=0) for prompt in prompts]
            return await asyncio.gather(*map(client.ask, requests))

    return asyncio.run(asyncio.wait_for(run(), limit_s))


def test_answers_belong_to_their_requests_and_failures_are_tried_again(app):
    prompts = [f"{'twice' if i % 7 == 3 else 'fine'} {i}" for i in range(60)]
    answers = ask(app, prompts)
    assert [answer.text for answer in answers] == [prompt.upper() for prompt in prompts]


def test_a_trouble_that_passes_before_long_costs_no_row(app, monkeypatch):
    monkeypatch.setattr(client_module, "_PAUSE_S", 0.25)
    answers = ask(app, [f"not yet {i}" for i in range(8)])
    assert [answer.finish_reason for answer in answers] == ["stop"] * 8


def test_what_fails_for_good_is_its_row_alone(deploy, monkeypatch):
    monkeypatch.setattr(client_module, "_PAUSE_S", 0.1)
    prompts = ["fine 1", "never 2", "hang 3", "fine 4", "half a pair"]
    answers = ask(deploy(0.3), prompts)
    assert [answer.text for answer in answers] == ["FINE 1", "", "", "FINE 4", ""]
    assert answers[1].error == "RuntimeError: out of memory"
    assert answers[2].error == "no answer within 0.3 s"
    assert answers[4].error == "RuntimeError: cannot take \ufffd"


def test_what_a_client_that_was_cancelled_had_asked_is_not_answered_any_more(app):
    handle = serve.get_app_handle(app)

    def left() -> float:
        return handle.record_autoscaling_stats.remote().result(timeout_s=60)["requests"]

    async def run() -> float:
        client = Client(app, 8, (0,))
        async with client.watched():
            asking = [
                asyncio.ensure_future(client.ask(Request(f"hang {i}", SamplingParams(), seed=i)))
                for i in range(8)
            ]
            while await asyncio.to_thread(left) < 8:
                await asyncio.sleep(0.05)
            for each in asking:
                each.cancel()
        for _ in range(200):
            if not (there := await asyncio.to_thread(left)):
                break
            await asyncio.sleep(0.05)
        return there

    assert asyncio.run(asyncio.wait_for(run(), 60)) == 0


@pytest.mark.parametrize(
    ("window", "most"), [(96, {0: 12, 1: 12, 2: 24, 8: 96}), (12, {0: 2, 1: 2, 2: 3, 8: 12})]
)
def test_no_more_is_sent_than_the_replicas_that_have_come_can_take(monkeypatch, window, most):
    """What waits on the first of many would leave the later ones idle; but one waits."""
    open_requests, sent, count = 0, {}, 16 * window

    class Handle(StreamingHandle):
        async def remote(self, requests, order, sender):
            nonlocal open_requests
            open_requests += len(requests)
            running = RUNNING.get("late", 0)
            sent[running] = max(sent.get(running, 0), open_requests)
            await asyncio.sleep(0.05)
            open_requests -= len(requests)
            numbers = range(sender.first, sender.first + len(requests))
            yield Replies("first", open_requests, [(n, Completion("x", "stop")) for n in numbers])

    async def run():
        client = Client("late", window, (0,), replicas=8)
        async with client.watched():
            requests = (Request("x", SamplingParams(), seed) for seed in range(count))
            asked = asyncio.gather(*map(client.ask, requests))
            for running in (1, 2, 8):
                await asyncio.sleep(0.4)
                RUNNING["late"] = running
            return await asked

    monkeypatch.setattr(serve, "get_app_handle", lambda app: Handle())
    monkeypatch.setattr(client_module, "_GROW_S", 0.01)
    monkeypatch.delitem(RUNNING, "late", raising=False)
    assert len(asyncio.run(run())) == count
    assert sent == most


def failing(function, times, error):
    """The function, failing so many times before it works."""
    left = iter(range(times))

    def wrapped(*arguments):
        if next(left, None) is not None:
            raise error
        return function(*arguments)

    return wrapped


def test_a_serve_that_cannot_be_asked_for_a_while_loses_no_request(app, monkeypatch):
    broken = failing(serve.get_app_handle, 3, RayServeException("the controller is away"))
    monkeypatch.setattr(client_module, "_PAUSE_S", 0.1)
    monkeypatch.setattr(serve, "get_app_handle", broken)
    answers = ask(app, [f"fine {i}" for i in range(40)])
    assert [answer.text for answer in answers] == [f"FINE {i}" for i in range(40)]


def test_a_serve_that_cannot_be_asked_for_long_is_an_error(app, monkeypatch):
    broken = failing(serve.get_app_handle, 10**6, RayServeException("the controller is away"))
    monkeypatch.setattr(client_module, "_PAUSE_S", 0.1)
    monkeypatch.setattr(client_module, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(serve, "get_app_handle", broken)
    with pytest.raises(GenerationError, match="cannot be asked: the controller is away"):
        ask(app, ["fine"])


@pytest.mark.parametrize(
    ("error", "words"),
    [(KeyError("no such item"), "KeyError"), (asyncio.CancelledError(), "was cancelled")],
)
def test_an_error_in_the_client_itself_is_the_error_of_all_its_requests(monkeypatch, error, words):
    monkeypatch.setattr(Client, "_try", failing(Client._try, 1, error))
    with pytest.raises(GenerationError, match=words):
        ask("app", ["fine"])


@pytest.mark.slow
def test_a_death_of_which_serve_says_nothing_loses_no_request(deploy, monkeypatch, tmp_path):
    app = deploy()
    silent = failing(client_module._is_up, 1, RayServeException("the controller is away"))
    monkeypatch.setattr(client_module, "_is_up", silent)
    answers = ask(app, ["fine", f"once {tmp_path / 'flag'}", "fine too"])
    assert [answer.finish_reason for answer in answers] == ["stop"] * 3


class Chance(StreamingHandle):
    """A handle whose calls do, by a seeded draw, all that calls of Serve have been seen to do.

    Answers come in their own call, or later in any other, or never.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._elsewhere: list[tuple[int, ReplicaReply]] = []

    async def remote(self, requests, order, sender):
        await asyncio.sleep(self._rng.random() / 100)
        left = list(enumerate(requests, sender.first))
        self._rng.shuffle(left)
        doings = ["answer"] * 12 + ["elsewhere"] * 4
        doings += ["fail", "die", "raise", "serve", "cancel", "end"]
        while left:
            match self._rng.choice(doings):
                case "answer":
                    carried, self._elsewhere = self._elsewhere, []
                    yield Replies("replica", 0, [*carried, _shouted(*left.pop())])
                case "elsewhere":
                    self._elsewhere.append(_shouted(*left.pop()))
                case "fail":
                    yield Replies("replica", 0, [(left.pop()[0], "RuntimeError: out of memory")])
                case "die":
                    raise RayActorError()
                case "raise":
                    raise RayTaskError("answer", "traceback", ValueError("a bug"))
                case "serve":
                    raise RayServeException("the controller is away")
                case "cancel":
                    raise asyncio.CancelledError  # so Serve hands on that Ray has cancelled it
                case "end":
                    return
            await asyncio.sleep(self._rng.random() / 1000)


def _shouted(number: int, request: Request) -> tuple[int, ReplicaReply]:
    return number, Completion(str(request.prompt).upper(), "stop")


@pytest.mark.parametrize("seed", range(12))
def test_whatever_befalls_its_calls_every_request_has_one_outcome(monkeypatch, seed):
    """Without a cluster, so that many schedules can be tried."""
    rng = random.Random(seed)

    def is_up(app):
        if rng.random() < 0.3:
            raise RayServeException("the controller is away")
        return True

    handle = Chance(seed)
    monkeypatch.setattr(serve, "get_app_handle", lambda app: handle)
    monkeypatch.setattr(client_module, "_is_up", is_up)
    monkeypatch.setattr(client_module, "_PAUSE_S", 0.001)
    monkeypatch.setattr(client_module, "_STRAY_S", 0.02)
    prompts = [f"fine {i}" for i in range(60)]
    answers = ask("app", prompts, window=rng.choice([2, 8, 64]), limit_s=20)
    assert len(answers) == len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert (answer.text, answer.finish_reason) in [(prompt.upper(), "stop"), ("", "error")]
    assert sum(answer.finish_reason == "stop" for answer in answers) > 40


class Failing(StreamingHandle):
    """A handle that fails every request at once, and counts them."""

    asked = 0

    async def remote(self, requests, order, sender):
        self.asked += len(requests)
        yield Replies("replica", 0, [(sender.first + k, "no") for k in range(len(requests))])


def test_what_nobody_waits_for_any_more_is_not_tried_again(monkeypatch):
    handle = Failing()
    monkeypatch.setattr(serve, "get_app_handle", lambda app: handle)
    monkeypatch.setattr(client_module, "_PAUSE_S", 0.4)

    async def run() -> None:
        client = Client("app", 8, (0,))
        async with client.watched():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(client.ask(Request("x", SamplingParams(), seed=0)), 0.15)
            assert handle.asked == 1
            await asyncio.sleep(0.7)

    asyncio.run(run())
    assert handle.asked == 1


class Carrying(StreamingHandle):
    """A handle of which every call but the first ends at once; the first brings all answers.

    Those of the numbers in ``lost`` it does not bring. With ``failing``, the first call fails when
    the others have ended.
    """

    def __init__(self, calls: int, lost: set[int], *, failing: bool = False) -> None:
        self.asked: list[str] = []
        self.senders: list[str] = []
        self._calls, self._lost, self._failing = calls, lost, failing
        self._there: list[tuple[int, Request]] = []
        self._all_there = asyncio.Event()

    async def remote(self, requests, order, sender):
        self.asked += [str(request.prompt) for request in requests]
        self.senders.append(sender.client)
        there = list(enumerate(requests, sender.first))
        if len(self.senders) > self._calls:  # asked again
            yield Replies("replica", 0, [_shouted(*one) for one in there])
            return
        self._there += there
        if len(self.senders) == self._calls:
            self._all_there.set()
        if len(self.senders) > 1:
            return
        await self._all_there.wait()
        await asyncio.sleep(0.02)  # the others have ended by now
        if self._failing:
            raise RayActorError
        yield Replies(
            "replica", 0, [_shouted(*one) for one in self._there if one[0] not in self._lost]
        )


@pytest.mark.parametrize(
    ("lost", "failing", "repeated"), [(set(), False, 0), ({2, 3, 7}, False, 3), (set(), True, 8)]
)
def test_answers_that_another_call_brings_are_waited_for_and_asked_for_again_if_they_do_not_come(
    monkeypatch, lost, failing, repeated
):
    handle = Carrying(8, lost, failing=failing)
    monkeypatch.setattr(serve, "get_app_handle", lambda app: handle)
    monkeypatch.setattr(client_module, "_is_up", lambda app: True)
    monkeypatch.setattr(client_module, "_STRAY_S", 0.3 if lost or failing else 3600.0)
    prompts = [f"fine {i}" for i in range(8)]
    answers = ask("app", prompts)  # one a call
    assert [answer.text for answer in answers] == [prompt.upper() for prompt in prompts]
    assert len(handle.asked) == len(prompts) + repeated
    # what may live on of a call that failed, or that Serve made again by itself, carries nothing of
    # the calls that come after
    assert len(set(handle.senders)) == 1 + bool(lost or failing)


class Mortal(StreamingHandle):
    """A handle on which so many calls die before one is answered."""

    def __init__(self, deaths: int) -> None:
        self._deaths = deaths

    async def remote(self, requests, order, sender):
        await asyncio.sleep(0.01)
        self._deaths -= 1
        if self._deaths >= 0:
            raise RayActorError
        yield Replies("replica", 0, [_shouted(*one) for one in enumerate(requests, sender.first)])


def test_after_many_deaths_serve_is_asked_once_and_a_serve_that_does_not_answer_holds_up_nothing(
    monkeypatch,
):
    handle, asked, answers = Mortal(8), [], threading.Event()

    def is_up(app):
        asked.append(app)
        return answers.wait(2)

    monkeypatch.setattr(serve, "get_app_handle", lambda app: handle)
    monkeypatch.setattr(client_module, "_is_up", is_up)
    monkeypatch.setattr(client_module, "_WORD_S", 0.05)
    began = time.monotonic()
    told = ask("app", [f"fine {i}" for i in range(8)])  # one a call
    took_s = time.monotonic() - began
    answers.set()
    assert [answer.finish_reason for answer in told] == ["stop"] * 8
    assert asked == ["app"]
    assert took_s < 1


class Slow(StreamingHandle):
    """A handle whose requests take times that differ, as a model's do; it notes its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.running = self.most = 0

    async def remote(self, requests, order, sender):
        self.calls.append(len(requests))
        self.running += len(requests)
        self.most = max(self.most, self.running)
        rng = random.Random(len(self.calls))
        for number, request in enumerate(requests, sender.first):
            await asyncio.sleep(rng.random() / 200)
            self.running -= 1
            yield Replies("replica", 0, [_shouted(number, request)])


@pytest.mark.parametrize(
    ("window", "replica_slots", "size"),
    [(384, None, 32), (96, None, 16), (48, None, 8), (4, None, 1), (384, 32, 8), (384, 2, 1)],
)
def test_freed_places_gather_until_a_call_is_full(monkeypatch, window, replica_slots, size):
    handle, lookups = Slow(), []
    monkeypatch.setattr(serve, "get_app_handle", lambda app: lookups.append(app) or handle)
    answers = ask("app", [f"fine {i}" for i in range(400)], window, replica_slots)
    assert [answer.text for answer in answers] == [f"FINE {i}" for i in range(400)]
    assert set(handle.calls[:-1]) == {size}  # but the last
    assert window - size < handle.most <= window
    assert lookups == ["app"]


class Mute(StreamingHandle):
    """A handle whose calls never bring anything."""

    async def remote(self, requests, order, sender):
        await asyncio.sleep(3600)
        yield


def test_starts_that_fail_end_the_work_after_a_long_silence_and_not_before(monkeypatch):
    looks = []

    def start_failure(app):
        looks.append(time.monotonic() - began)
        return "OutOfMemoryError: the model does not fit"

    monkeypatch.setattr(serve, "get_app_handle", lambda app: Mute())
    monkeypatch.setattr(client_module, "_is_up", lambda app: True)
    monkeypatch.setattr(client_module, "start_failure", start_failure)
    monkeypatch.setattr(client_module, "_LOOK_S", 0.05)
    monkeypatch.setattr(client_module, "_START_S", 0.5)
    began = time.monotonic()
    with pytest.raises(GenerationError, match="cannot start again: OutOfMemoryError"):
        ask("app", ["fine"])
    assert len(looks) == 1
    assert looks[0] > 0.5


def test_replicas_that_are_gone_are_not_waited_for_when_the_hours_are_over(monkeypatch):
    monkeypatch.setattr(serve, "get_app_handle", lambda app: Mute())
    monkeypatch.setattr(client_module, "_is_up", lambda app: True)
    monkeypatch.setattr(client_module, "start_failure", lambda app: None)  # they wait for a node
    monkeypatch.setattr(client_module, "_LOOK_S", 0.05)
    monkeypatch.setattr(client_module, "_START_S", 0.2)
    monkeypatch.setitem(RUNNING, "app", 1)
    until = time.time() + 0.5
    threading.Timer(1.0, RUNNING.update, [{"app": 0}]).start()
    with pytest.raises(BudgetError, match=r"budget\.hours are over, and no replica"):
        ask("app", ["fine"], until=until)
    assert RUNNING["app"] == 0  # long answers were waited for


@pytest.mark.slow
def test_a_request_that_kills_its_replica_is_found_and_its_neighbours_are_answered(deploy):
    prompts = [f"{'kill' if i == 9 else 'fine'} {i}" for i in range(30)]
    answers = ask(deploy(), prompts)
    assert [i for i, answer in enumerate(answers) if answer.finish_reason == "error"] == [9]
    assert "died with this request" in answers[9].error
    assert all(answer.text == f"FINE {i}" for i, answer in enumerate(answers) if i != 9)


@pytest.mark.slow
def test_replicas_that_cannot_start_again_end_the_work_with_the_reason(
    deploy, tmp_path, monkeypatch
):
    monkeypatch.setattr(client_module, "_LOOK_S", 1.0)
    monkeypatch.setattr(client_module, "_START_S", 4.0)
    flag = tmp_path / "broken"
    app = deploy(None, str(flag))
    assert ask(app, ["fine"])[0].text == "FINE"
    flag.touch()
    with pytest.raises(GenerationError, match=r"cannot start again: .*fallen off the bus"):
        ask(app, ["kill"])


def test_an_application_that_is_gone_is_an_error_at_once(deploy):
    app = deploy()
    serve.delete(app)
    with pytest.raises(GenerationError, match="cannot be asked"):
        ask(app, ["fine"])
