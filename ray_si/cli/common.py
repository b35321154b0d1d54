"""What all verbs share: the application, argument types, and how errors and interrupts end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ray_si.cli.output import console, plain
from ray_si.errors import RaySIError, UserError
from ray_si.serving.connect import is_left_open


class _App(typer.Typer):
    """The application; it ends its process itself where Ray had to be left open."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().__call__(*arguments, **options)
        except SystemExit as end:  # as every verb ends
            if is_left_open():
                sys.stdout.flush()
                os._exit(int(end.code or 0))
            raise


app = _App(
    help="Build instruction-tuning datasets the Self-Instruct way, on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# the groups of verbs in --help
BUILD = "Build a dataset"
LOOK = "Look at a run"
USE = "Use what is there"
CLUSTER = "On a cluster"
TRAIN = "Train and compare"

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="The run's YAML configuration.")]
RunPath = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a run, or s3://bucket/prefix.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeat for more."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to use; without it $RAY_ADDRESS, else Ray starts on this machine."
    ),
]

_COME_AGAIN_S = 0.1
"""After which a signal whose exception was dropped comes again."""


@contextmanager
def errors_as_exits() -> Iterator[None]:
    """One line and an exit status for what went wrong: 2 for the user's to mend, 1 otherwise."""
    try:
        yield
    except UserError as error:
        console(error=True).print(plain(f"error: {error}"), style="red", highlight=False)
        raise typer.Exit(2) from error
    except RaySIError as error:
        console(error=True).print(plain(f"{error}"), style="red", highlight=False)
        raise typer.Exit(1) from error


@contextmanager
def interruptible(consequence: str, *, at_once: bool = False) -> Iterator[None]:
    """SIGTERM as Ctrl-C; both end with what that means, and the usual exit statuses.

    The process then leaves without Python's own farewell, which would wait for rounds begun ahead,
    and Ray, once closed, may never let go of those. A second signal does not wait for Ray either,
    and with ``at_once``, for what leaves nothing to clear away, the first waits for nothing. A
    signal that comes while a ``__del__`` or such runs, whose exceptions Python drops, comes again.
    """
    status = 0

    def leave() -> None:
        shown = console(error=True)
        shown.show_cursor()  # which bars hide, and their own end is not waited for
        shown.print(f"stopped; {consequence}", markup=False, highlight=False)
        sys.stdout.flush()
        os._exit(status or 128 + signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        nonlocal status
        if status:
            leave()
        status = 128 + number
        if at_once:
            leave()
        raise KeyboardInterrupt

    def come_again(dropped: sys.UnraisableHookArgs) -> None:
        nonlocal status
        if status and issubclass(dropped.exc_type, KeyboardInterrupt):
            number, status = status - 128, 0
            again = threading.Timer(_COME_AGAIN_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        else:
            previous_hook(dropped)

    previous_hook, sys.unraisablehook = sys.unraisablehook, come_again
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        leave()  # SystemExit: Ray's own SIGTERM handler, which is up while `ray.init` runs
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = previous_hook
