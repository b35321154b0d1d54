"""An OpenAI-compatible endpoint in a process of its own, with faults to order.

Behind it is the replay engine, so that its answers are a function of the request. Started as
``python -m tests.endpoint``; prints its port. ``Endpoint`` is the same from a test's side.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import subprocess
import sys
import threading
import urllib.request
from collections import Counter

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HTTPRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ray_si.engines.base import Request, SamplingParams
from ray_si.engines.replay.engine import ReplayEngine, request_key
from ray_si.self_instruct.prompts import LABELS

KEY, MODEL, CONTEXT = "sk-correct", "replay-1", 4096
PURPOSES = {512: "instructions", 3: "classification", 350: "input_first", 300: "output_first"}
"""By max_tokens: the endpoint is not told what a request is for."""

GREETING = "Hello"
"""A prompt of one word: the engine's own way to see whether the endpoint works."""

LIMIT = "max_tokens or model output limit was reached. Please try again with higher max_tokens."


class CutError(Exception):
    """Ends a connection in the middle of an answer."""


class Server:
    """What it does to requests, and what has come."""

    def __init__(self):
        self.engine = ReplayEngine()
        self.reset({})

    def reset(self, settings):
        self.settings = settings
        self.rng = random.Random(settings.get("seed", 0))
        self.counts, self.bodies, self.in_flight = Counter(), [], 0

    async def ask(self, http: HTTPRequest) -> Response:
        self.counts["requests"] += 1
        self.in_flight += 1
        self.counts["most_in_flight"] = max(self.counts["most_in_flight"], self.in_flight)
        try:
            body = await http.json()
            self.bodies.append(body)
            return await self._fault(body) or await self._answer(http, body)
        finally:
            self.in_flight -= 1

    async def _fault(self, body) -> Response | None:
        spared = self.settings.get("spare_greetings") and GREETING in json.dumps(body)[:99]
        if spared or not self.settings.get("faults"):
            return None
        draw = self.rng.random()
        for name, share in self.settings["faults"].items():
            draw -= share
            if draw < 0:
                self.counts[name] += 1
                return await getattr(self, f"_{name}")()
        return None

    async def _busy(self):
        return error(429, "Too many requests", "rate_limit_exceeded")

    async def _busy_until(self):
        wait = str(self.settings.get("retry_after", "0.2"))
        return error(429, "Too many requests", "rate_limit_exceeded", {"retry-after": wait})

    async def _broken(self):
        return error(500, "Something broke", None)

    async def _gateway(self):
        return HTMLResponse("<html><body>Bad gateway</body></html>", 502)

    async def _page(self):
        return HTMLResponse("<html><body>Welcome</body></html>")

    async def _hang(self):
        await asyncio.sleep(60)

    async def _cut(self):
        async def app(scope, receive, send):
            headers = [(b"content-type", b"application/json"), (b"content-length", b"500")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"choices": [', "more_body": True})
            raise CutError

        return app

    async def _quota(self):
        return error(429, "You exceeded your current quota", "insufficient_quota")

    async def _revoked(self):
        return error(401, "Incorrect API key provided", "invalid_api_key")

    async def _credit(self):
        return error(402, "You requested up to 512 tokens, but can only afford 300", None)

    async def _half_a_pair(self):
        text = json.dumps({"error": {"message": "no such face: \ud83d", "code": None}})
        return Response(text, 400, media_type="application/json")

    async def _too_large(self):
        text = "'max_tokens' or 'max_completion_tokens' is too large: 512"
        return error(400, text, "context_length_exceeded")

    async def _expired(self):
        return error(400, "API key expired. Please renew the API key.", None)

    async def _echo(self):
        return error(400, f"cannot take the key {KEY}", None)

    async def _answer(self, http, body) -> Response:
        if http.headers.get("authorization") != f"Bearer {KEY}":
            return error(401, f"Incorrect API key: {http.headers.get('authorization')}", None)
        if body["model"] != MODEL:
            return error(404, f"The model `{body['model']}` does not exist", "model_not_found")
        chat = "messages" in body
        if missing := self.settings.get("lacks"):
            if missing == ("chat" if chat else "completion"):
                return error(404, "Not Found", None)
            if missing in body:
                if missing == "logprobs":  # as OpenAI says it of models that think
                    return error(403, "You are not allowed to request logprobs", None)
                return error(400, f"Unsupported parameter: '{missing}'", "unsupported_parameter")
        if self.settings.get("new_name") and "max_tokens" in body:
            text = "'max_tokens' is not supported, use 'max_completion_tokens' instead"
            return error(400, f"Unsupported parameter: {text}", "unsupported_parameter")
        request = self._request(body, chat)
        if request.sampling.max_tokens < self.settings.get("thinks", 0):
            return error(400, f"Could not finish the message because {LIMIT}", None)
        length = len(json.dumps(request.prompt)) // 4
        if length + request.sampling.max_tokens > self.settings.get("context", CONTEXT):
            return error(400, f"maximum context is {CONTEXT}", "context_length_exceeded")
        await asyncio.sleep(self.settings.get("latency_s", 0))
        completion = await self.engine.generate(request)
        return JSONResponse(self._json(request, completion, chat))

    def _request(self, body, chat) -> Request:
        most = body.get("max_tokens") or body["max_completion_tokens"]
        purpose = PURPOSES.get(most, "instructions")
        scores = body.get("logprobs") and not self.settings.get("no_logprobs")
        return Request(
            body["messages"] if chat else body["prompt"],
            SamplingParams(max_tokens=most, stop=tuple(body.get("stop", ()))),
            body.get("seed", 0),
            purpose,
            LABELS["chat" if chat else "completion"] if scores else (),
        )

    def _json(self, request, completion, chat):
        words = completion.text.split(" ")
        usage = {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
        }
        choice = {"index": 0, "finish_reason": completion.finish_reason}
        text = completion.text
        filtered = int(request_key(request.prompt, request.seed)[:8], 16) % 1000
        if filtered < 1000 * self.settings.get("filtered", 0):
            choice["finish_reason"], text = "content_filter", " ".join(words[:2])
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
            if filtered >= 1000 * (1 - self.settings.get("declined", 0)):
                choice["message"] |= {"content": None, "refusal": "I can't help with that."}
        else:
            choice["text"] = text
        if request.labels:
            scores = dict(zip(request.labels, completion.label_logprobs, strict=True))
            scores |= {"\n": math.log(1e-3)}
            listed = [{"token": t, "logprob": p, "bytes": []} for t, p in scores.items()]
            first = listed[0] | {"top_logprobs": listed}
            choice["logprobs"] = {"content": [first]} if chat else {"top_logprobs": [scores]}
        if GREETING not in json.dumps(request.prompt)[:99]:
            choice |= self.settings.get("choice", {})
        kind = "chat.completion" if chat else "text_completion"
        return {"id": "1", "object": kind, "created": 1, "model": MODEL, "choices": [choice]} | (
            {} if self.settings.get("no_usage") else {"usage": usage}
        )


def error(status, message, code, headers=None) -> Response:
    body = {"error": {"message": message, "type": "error", "code": code, "param": None}}
    return JSONResponse(body, status, headers)


def application() -> Starlette:
    server = Server()

    async def models(http):
        names = [MODEL, "replay-2"]
        return JSONResponse({"object": "list", "data": [{"id": name} for name in names]})

    async def settings(http):
        server.reset(await http.json())
        return JSONResponse({})

    async def seen(http):
        return JSONResponse({"counts": server.counts, "bodies": server.bodies[-50:]})

    async def page(http):
        return HTMLResponse("<html><body>Welcome</body></html>")

    return Starlette(
        routes=[
            Route("/v1/completions", server.ask, methods=["POST"]),
            Route("/v1/chat/completions", server.ask, methods=["POST"]),
            Route("/v1/models", models),
            Route("/settings", settings, methods=["POST"]),
            Route("/seen", seen),
            Route("/site/{rest:path}", page, methods=["GET", "POST"]),
        ]
    )


class Endpoint:
    """The process, from a test's side."""

    def __init__(self):
        command = [sys.executable, "-m", "tests.endpoint"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.host = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"{self.host}/v1"

    def set(self, **settings):
        """Behave like this from now on, and count anew."""
        data = json.dumps(settings).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.host}/settings", data, headers)
        urllib.request.urlopen(request, timeout=10).close()

    def seen(self):
        """Counts of what has come and gone wrong, and the last bodies."""
        with urllib.request.urlopen(f"{self.host}/seen", timeout=10) as answer:
            return json.load(answer)

    def stop(self):
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":

    class Announcing(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            print(self.servers[0].sockets[0].getsockname()[1], flush=True)

    def leave_with_the_tests():
        sys.stdin.read()  # which ends when they do, however that is
        os._exit(0)

    threading.Thread(target=leave_with_the_tests, daemon=True).start()
    config = uvicorn.Config(application(), port=0, log_level="critical", timeout_keep_alive=60)
    Announcing(config).run()
