"""The command line as tests run it: in a process of its own, or at once in this one."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import typer.testing

ENVIRONMENT = os.environ | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "COLUMNS": "200",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


def ray_si(*arguments, **kwargs):
    """Run ``ray-si`` to its end in a process; ``kwargs`` go to `subprocess.run`.

    For what needs one: signals, a Ray of its own, nothing left of an earlier import.
    """
    return subprocess.run(
        [sys.executable, "-m", "ray_si", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **{"env": ENVIRONMENT, "timeout": 180} | kwargs,
    )


def invoke(*arguments, cwd=None, env=None):
    """Run ``ray-si`` to its end in this process, which is as good as done; a build uses our Ray.

    Output and exit status are as those of `ray_si`, a traceback where it would show one.
    """
    from ray_si.cli import app
    from ray_si.storage.s3 import _client

    command = ["ray-si", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - (env or ENVIRONMENT).keys():
            patch.delenv(name)
        for name, value in (env or ENVIRONMENT).items():
            patch.setenv(name, value)
        if cwd:
            patch.chdir(cwd)
        _client.cache_clear()  # it was made for another environment
        result = typer.testing.CliRunner().invoke(app, command[1:], prog_name="ray-si")
        _client.cache_clear()
    errors = result.stderr
    if result.exception and not isinstance(result.exception, SystemExit):
        errors += "".join(traceback.format_exception(result.exception))
    return subprocess.CompletedProcess(command, result.exit_code, result.stdout, errors)


def assert_one_line_error(done, message):
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
