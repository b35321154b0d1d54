"""The command line: one function per verb, no logic; a module for each group of verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_si._version import __version__
from ray_si.cli.common import app

# imported for the verbs that they register, in the order in which --help lists them
# isort: off
from ray_si.cli import starting  # noqa: F401
from ray_si.cli import runs  # noqa: F401
from ray_si.cli import planning  # noqa: F401
from ray_si.cli import scoring  # noqa: F401
from ray_si.cli import exports  # noqa: F401
from ray_si.cli import pushing  # noqa: F401
from ray_si.cli import data  # noqa: F401
from ray_si.cli import jobs  # noqa: F401
from ray_si.cli import reporting  # noqa: F401
from ray_si.cli import training  # noqa: F401
# isort: on

__all__ = ["app"]


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Options that come before the verb."""
    if version:
        typer.echo(f"ray_si {__version__}")
        raise typer.Exit
