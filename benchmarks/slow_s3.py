"""An S3 server on this machine that takes its time, with a folder's files in a bucket.

    python benchmarks/slow_s3.py FOLDER --delay 0.025      prints its address

It is moto, in a process of its own: ``runs/KEY`` is the file FOLDER/KEY. Each call is answered
``delay`` seconds after moto has its answer, as many at a time as there are callers.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "runs"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def slow_s3(folder: Path, delay_s: float) -> Iterator[dict[str, str]]:
    """The server with the folder's files; yields the environment that finds it."""
    command = [sys.executable, __file__, str(folder), "--delay", str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = server.stdout.readline().strip()
        try:
            yield ENVIRONMENT | {"AWS_ENDPOINT_URL": url}
        finally:
            server.kill()


def _serve(folder: Path, delay_s: float) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = path.relative_to(folder).as_posix()
            backend.put_object(BUCKET, key, path.read_bytes())
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: Any, start_response: Callable[..., Any]) -> Any:
        answer = list(moto(environ, start_response))
        time.sleep(delay_s)
        return answer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.025)
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    _serve(options.folder, options.delay)


if __name__ == "__main__":
    main()
