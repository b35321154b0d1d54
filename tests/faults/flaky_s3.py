"""A reverse proxy that does to S3 requests what networks and busy stores do, from a seed.

In a test::

    with FlakyS3("http://127.0.0.1:5000", seed=1) as proxy:
        environment["AWS_ENDPOINT_URL_S3"] = proxy.url

On its own: ``python -m tests.faults.flaky_s3 http://127.0.0.1:5000 --seed 1`` prints its address.
"""

from __future__ import annotations

import argparse
import http.client
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "cut", "timeout", "forgotten", "half", "headers", "altered")
"""What happens instead of an answer.

500 and 503 (SlowDown) answer so; cut closes the connection; timeout is silent for ``hold_s``, then
closes it. None of these reaches the store. forgotten does, and the answer is lost; half sends half
of the answer's body, headers nothing of it; altered flips a bit of it, where a checksum goes along.
"""

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}
_ERROR = (
    '<?xml version="1.0"?><Error><Code>{0}</Code><Message>{1}</Message>'
    "<RequestId>0</RequestId></Error>"
)


class FlakyS3:
    """Forwards to ``target``, but for a ``share`` of the requests one of ``faults`` befalls them.

    ``drop_headers`` (lower case) are left out when forwarding. ``answers`` maps a method to the
    (status, code) that every request of that method gets instead. ``requests`` counts all requests
    by method, ``befell`` the faults by name.
    """

    def __init__(
        self,
        target: str,
        *,
        seed: int = 0,
        share: float = 0.1,
        faults: tuple[str, ...] = FAULTS,
        hold_s: float = 1.0,
        drop_headers: frozenset[str] = frozenset(),
        answers: dict[str, tuple[int, str]] | None = None,
        port: int = 0,
    ) -> None:
        self.target = urlsplit(target).netloc
        self.hold_s, self.drop_headers = hold_s, drop_headers
        self.answers = answers or {}
        self.requests: Counter[str] = Counter()
        self.befell: Counter[str] = Counter()
        self._random, self._share, self._faults = random.Random(seed), share, faults
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FlakyS3:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, share: float) -> None:
        """Have another share of requests fail from now on."""
        self._share = share

    def draw(self, method: str) -> str | None:
        """Count a request, and say what befalls it."""
        with self._lock:
            self.requests[method] += 1
            if self._random.random() >= self._share:
                return None
            fault = self._random.choice(self._faults)
            self.befell[fault] += 1
            return fault


class _Server(ThreadingHTTPServer):
    proxy: FlakyS3
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        proxy = self.server.proxy
        body = self._body()
        fault = proxy.draw(self.command)
        if self.command in proxy.answers:
            self._refuse(*proxy.answers[self.command])
        elif fault == "500":
            self._refuse(500, "InternalError")
        elif fault == "503":
            self._refuse(503, "SlowDown")
        elif fault in ("cut", "timeout"):
            time.sleep(proxy.hold_s * (fault == "timeout"))
            self.close_connection = True
        else:
            status, headers, answer = self._forward(body)
            self._pass_on(status, headers, answer, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        dropped = _HOP | {"expect"} | self.server.proxy.drop_headers
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        connection = http.client.HTTPConnection(self.server.proxy.target, timeout=60)
        try:
            # the Content-Length of an empty PUT matters, too
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _pass_on(
        self, status: int, headers: list[tuple[str, str]], answer: bytes, fault: str | None
    ) -> None:
        if fault == "forgotten" or (fault in ("half", "headers") and self.command == "HEAD"):
            self.close_connection = True
            return
        names = {name.lower() for name, _ in headers}
        if fault == "altered" and answer and any(n.startswith("x-amz-checksum-") for n in names):
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        length = dict(headers).get("Content-Length", "0")
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(answer)))
        self.end_headers()
        if fault in ("half", "headers"):
            answer = answer[: len(answer) // 2] if fault == "half" else b""
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _refuse(self, status: int, code: str) -> None:
        answer = b"" if self.command == "HEAD" else _ERROR.format(code, "flaky").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with FlakyS3(
        options.target, seed=options.seed, share=options.share, port=options.port
    ) as proxy:
        print(proxy.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
