"""What all verbs share."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from tests.command import ENVIRONMENT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_an_object_is_finalized_ends_the_verb_all_the_same(number):
    """Python drops what is raised there."""
    script = f"""
    import os, time
    from ray_si.cli.common import interruptible

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), {int(number)})
            time.sleep(1)

    with interruptible("nothing was written"):
        Finalized()
        time.sleep(30)
    print("went on")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (128 + number, ""), done.stderr
    assert done.stderr == "stopped; nothing was written\n"


def test_what_else_is_dropped_is_told_as_ever():
    script = """
    from ray_si.cli.common import interruptible

    class Finalized:
        def __del__(self):
            raise ValueError("of its own")

    with interruptible("nothing was written"):
        Finalized()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert "of its own" in done.stderr
