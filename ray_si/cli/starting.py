"""Verbs to begin with: init writes a first configuration, doctor looks at what is there."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ray_si.cli.common import BUILD, Address, app, errors_as_exits, interruptible
from ray_si.cli.planning_output import print_findings
from ray_si.config.starter import ENGINES, WHERE, Starter
from ray_si.errors import ConfigError

_ENDPOINT_URL = "https://api.openai.com/v1"
_THERE = "{} is there already; name another file"


@app.command(
    rich_help_panel=BUILD,
    epilog="[b]Examples[/b]\n\nray-si init\n\n"
    "ray-si init mine.yaml --for endpoint --model my-model --url http://localhost:8000/v1\n\n"
    "ray-si init mine.yaml --for gpus --gpus 8 --model Qwen/Qwen2.5-7B-Instruct --target 50000",
)
def init(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it.")] = "run.yaml",
    where: Annotated[
        str | None,
        typer.Option("--for", help="Where the model runs: endpoint, gpu (one) or gpus (many)."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Its name on the hub or the endpoint.")] = None,
    url: Annotated[str | None, typer.Option(help="The endpoint, as far as /v1.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs, for --for gpus.")] = None,
    engine: Annotated[str, typer.Option(help="On GPUs: vllm or transformers.")] = "vllm",
    target: Annotated[int, typer.Option(min=1, help="Accepted instructions to stop at.")] = 1000,
) -> None:
    """Write a commented configuration for a model of yours; asks for what is not given."""
    with errors_as_exits(), interruptible("nothing was written"):
        path = Path(file)
        if os.path.lexists(path):
            raise ConfigError(_THERE.format(file))
        if where is None:
            where = _ask("where does the model run, endpoint, gpu or gpus", "--for", "endpoint")
        if where not in WHERE:
            raise ConfigError(f"--for {where}: choose one of {', '.join(WHERE)}")
        if engine not in ENGINES:
            raise ConfigError(f"--engine {engine}: choose one of {', '.join(ENGINES)}")
        if model is None:
            model = _ask("the model's name", "--model")
        if where == "endpoint" and url is None:
            url = _ask("the endpoint", "--url", _ENDPOINT_URL)
        if where == "gpus" and gpus is None:
            answer = _ask("how many GPUs", "--gpus", "8")
            if not answer.isdecimal() or int(answer) < 1:
                raise ConfigError(f"{answer} is no number of GPUs")
            gpus = int(answer)
        text = Starter(where, model, target, url or _ENDPOINT_URL, gpus or 1, engine).text()
        try:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError as error:
            raise ConfigError(_THERE.format(file)) from error
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error.strerror}") from error
        typer.echo(f"wrote {file}. Next:")
        name, out = shlex.quote(file), shlex.quote(f"runs/{path.stem}")
        for command in (f"check {name}", f"preview {name}", f"build {name} --out {out}"):
            typer.echo(f"  ray-si {command}")


def _ask(question: str, flag: str, default: str | None = None) -> str:
    """The answer from the terminal; ConfigError naming the ``flag`` where there is none."""
    if not sys.stdin.isatty():
        raise ConfigError(f"{flag} is missing, and there is no terminal to ask for it")
    answer: str = typer.prompt(question, default=default)
    return answer


@app.command(
    rich_help_panel=BUILD,
    epilog="[b]Examples[/b]\n\nray-si doctor\n\n"
    "ray-si doctor --address auto --to s3://datasets/mine\n\n"
    "ray-si doctor --url http://localhost:8000/v1 --key-env none",
)
def doctor(
    address: Address = None,
    to: Annotated[
        str | None, typer.Option(help="A folder or s3:// location that runs are to lie at.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="An endpoint to try, as far as /v1.")] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable with its key; none for no key.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Say what this machine can do, and the cluster, the store and the endpoint that are named.

    Starts nothing and leaves nothing behind. Ends with 1 where something named will not do.
    """
    with errors_as_exits(), interruptible("nothing was written", at_once=True):
        from ray_si.planning import doctor as look

        findings = [*look.machine(), look.cluster(address)]
        if to is not None:
            findings.append(look.store(to))
        if url is not None:
            findings.append(look.endpoint(url, None if key_env == "none" else key_env))
        print_findings(findings)
        if any(finding.is_fine is False for finding in findings):
            raise typer.Exit(1)
