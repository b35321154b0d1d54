"""Requests through a real Serve: engines that fail, hang, or take their replica with them."""

from __future__ import annotations

import asyncio
import os

import pytest
from ray import serve

from ray_si.engines.base import Completion, Request, SamplingParams
from ray_si.errors import GenerationError
from ray_si.serving import client as client_module
from ray_si.serving.client import Client
from ray_si.serving.replicas import GeneratorReplica

pytestmark = pytest.mark.usefixtures("ray_session")


class TroubledEngine:
    """Answers with the prompt; some prompts make trouble."""

    slots = capacity = 4

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    async def generate(self, request: Request) -> Completion:
        prompt = str(request.prompt)
        self.seen[prompt] = self.seen.get(prompt, 0) + 1
        if prompt.startswith("kill"):
            os._exit(1)
        if prompt.startswith("hang"):
            await asyncio.sleep(3600)
        if prompt.startswith("never") or (prompt.startswith("twice") and self.seen[prompt] < 3):
            raise RuntimeError("out of memory")
        await asyncio.sleep(0.05)
        return Completion(prompt.upper(), "stop", 1, 1)

    def check_health(self) -> None:
        pass


class TroubledReplica(GeneratorReplica):
    def __init__(self, timeout_s: float | None = None, flag: str | None = None) -> None:
        if flag and os.path.exists(flag):
            raise RuntimeError("the GPU has fallen off the bus")
        super().__init__("replay", None, {}, timeout_s)
        self._engine = TroubledEngine()


@pytest.fixture
def deploy(request):
    """Deploys `TroubledReplica` under the test's name and removes it after."""
    name = request.node.name

    def run(*arguments) -> str:
        replica = serve.deployment(TroubledReplica).options(
            max_ongoing_requests=100, ray_actor_options={"num_cpus": 0}
        )
        serve.run(replica.bind(*arguments), name=name, route_prefix=None)
        return name

    serve.start(proxy_location="Disabled")
    yield run
    serve.delete(name)


def ask(app: str, prompts: list[str], window: int = 8) -> list[Completion]:
    async def run() -> list[Completion]:
        client = Client(app, window, (0,))
        async with client.watched():
            requests = [Request(prompt, SamplingParams(), seed=0) for prompt in prompts]
            return await asyncio.gather(*map(client.ask, requests))

    return asyncio.run(asyncio.wait_for(run(), 240))


def test_answers_belong_to_their_requests_and_failures_are_tried_again(deploy):
    prompts = [f"{'twice' if i % 7 == 3 else 'fine'} {i}" for i in range(60)]
    answers = ask(deploy(), prompts)
    assert [answer.text for answer in answers] == [prompt.upper() for prompt in prompts]


def test_what_fails_for_good_is_its_row_alone(deploy):
    prompts = ["fine 1", "never 2", "hang 3", "fine 4"]
    answers = ask(deploy(0.3), prompts)
    assert [answer.text for answer in answers] == ["FINE 1", "", "", "FINE 4"]
    assert answers[1].error == "RuntimeError: out of memory"
    assert answers[2].error == "no answer within 0.3 s"


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
    monkeypatch.setattr(client_module, "_PATIENCE_S", 4.0)
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
