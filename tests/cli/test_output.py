"""What the command line shows."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.console import Console

from ray_si.cli import output
from ray_si.cli.output import BuildDisplay, duration, plain, print_jobs, print_status
from ray_si.pipeline.progress import Phase, Progress
from ray_si.serving.usage import Usage


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (9000, "2 h"),
        (172_800, "2 days"),
        (6e5, "7 days"),
    ],
)
def test_a_time_is_told_in_the_unit_that_suits_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_that_is_left_goes_by_what_is_answered_not_by_what_a_resume_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    display = BuildDisplay()

    def shown(phase: Phase, done: int, answered: int = 0) -> str:
        nonlocal now
        now += 10
        usage = Usage(replicas=bool(answered), requests=Counter(input_first=answered))
        progress = Progress(phase, done, 1000, usage=usage)
        display.listen(progress)
        return display._detail(progress, now)

    assert "left" not in shown("instances", 0, 50)  # of the instructions
    assert "left" not in shown("instances", 600, 50)  # read
    assert "about 40 s left" in shown("instances", 680, 130)
    assert "left" not in shown("export", 0)
    assert "about 90 s left" in shown("export", 100)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 80 columns is shown."""
    shown = io.StringIO()
    of_80 = Console(file=shown, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(output, "console", lambda **_: of_80)
    return shown


def test_notes_of_a_start_are_shown_as_they_are(terminal: io.StringIO) -> None:
    note = "a replica could not start: [/x/tcp/pair.cc:534] [rank0]: closed"
    with BuildDisplay() as display:
        display.listen(Progress("start", note=note))
        display.listen(Progress("bootstrap", 1, 10))
    assert "[/x/tcp/pair.cc:534] [rank0]: closed" in terminal.getvalue()


def test_a_location_is_shown_as_it_is_without_what_steers_a_terminal(terminal: io.StringIO) -> None:
    print_status("runs/[v2]/[/x]\x1b]0;mine\x07", {"phase": "done"})
    shown = terminal.getvalue().replace("\n", "")
    assert "runs/[v2]/[/x]\ufffd]0;mine\ufffd" in shown


def test_what_is_no_letter_and_steers_nothing_is_shown_as_it_is() -> None:
    text = "Bonjour\u00a0!\u3000a\u200db\u200cc"
    assert plain(text + "\r\n\tx\x1b[2J\u202ey").plain == text + "\n x\ufffd[2J\ufffdy"


def test_ids_of_jobs_can_be_copied_from_80_columns(terminal: io.StringIO) -> None:
    ids = ["ray-si-3f2a91c04d", "raysubmit_kR6AVm2pXvQ3Yw8T"]
    run = "s3://datasets/a/rather/long/location/of/a/run/of/mine"
    job = {"status": "SUCCEEDED", "run": run, "entrypoint": "", "began": 1e9, "ended": 2e9}
    print_jobs([{"id": id_} | job for id_ in ids])
    lines = terminal.getvalue().split("\n")
    for id_ in ids:
        assert sum(id_ in line and "SUCCEEDED" in line for line in lines) == 1
