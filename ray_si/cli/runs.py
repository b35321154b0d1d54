"""Verbs about runs: build, check, status, verify, regate."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ray_si.cli.common import (
    BUILD,
    LOOK,
    Address,
    ConfigPath,
    Overrides,
    RunPath,
    app,
    errors_as_exits,
    interruptible,
)
from ray_si.cli.output import (
    BuildDisplay,
    Steps,
    print_check,
    print_regated,
    print_status,
    print_summary,
    print_verification,
)
from ray_si.config.file import load_config

_MOST_PROCESSES = 16
"""Of a verification: beyond these reading bounds it, and each takes some hundred megabytes."""


@app.command(
    rich_help_panel=BUILD,
    epilog="[b]Examples[/b]\n\n"
    "ray-si build configs/quickstart.yaml --out runs/quickstart\n\n"
    "ray-si build configs/paper.yaml --out runs/paper --set generator.replicas=8 "
    "--set generator.gpus=1 --address auto\n\n"
    "ray-si build configs/paper.yaml --out runs/clean "
    '--set "decontaminate=[gsm8k.jsonl, eval/]" --set decontaminate_ngram=13',
)
def build(
    config: ConfigPath,
    out: Annotated[
        str, typer.Option("--out", metavar="RUN", help="Folder of the run, or s3://bucket/prefix.")
    ],
    set_: Overrides = None,
    address: Address = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Stop bootstrapping; go on with what is accepted.")
    ] = False,
    keep_log: Annotated[
        bool,
        typer.Option(
            "--keep-log",
            help="As the entry point of a job: keep how it ends in RUN/job, and its output, if "
            "that goes to a file, each minute.",
        ),
    ] = False,
    no_repeat: Annotated[
        bool,
        typer.Option(
            "--no-repeat",
            help="For operators that repeat what fails: stop the job where that cannot help (exit "
            "status 2, a budget, no progress). Implies --keep-log.",
        ),
    ] = False,
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="As the entry point of a job: build in a process beside this one, and begin again "
            "so often where that is killed, as for lack of memory.",
        ),
    ] = 0,
) -> None:
    """Build a dataset, or go on with one: the same command resumes."""
    if retries:
        from ray_si.submission.supervisor import supervise

        command = [sys.executable, "-m", "ray_si", "build", config, "--out", out]
        command += [f"--set={item}" for item in set_ or []]
        command += [f"--address={address}"] if address else []
        flags = {"--finish": finish, "--keep-log": keep_log, "--no-repeat": no_repeat}
        command += [flag for flag, is_set in flags.items() if is_set]
        raise typer.Exit(supervise(command, retries, lambda line: typer.echo(line, err=True)))
    kept = f"what is finished is kept in {out}. The same command goes on from there."
    with errors_as_exits(), interruptible(kept), ExitStack() as stack:
        if keep_log or no_repeat:
            from ray_si.submission.report import reported

            stack.enter_context(reported(out, repeat=not no_repeat))
        from ray_si.build import builder

        settings = load_config(config, set_ or [])
        with BuildDisplay() as display:
            result = builder.build(
                settings, out, address=address, listen=display.listen, finish=finish
            )
        print_summary(out, result.stats, result.seconds)


@app.command(
    rich_help_panel=BUILD,
    epilog="[b]Example[/b]\n\nray-si check configs/paper.yaml --set seeds=mine.jsonl",
)
def check(config: ConfigPath, set_: Overrides = None) -> None:
    """Check configuration, seed tasks and models without starting anything."""
    with errors_as_exits():
        from ray_si.build import builder

        settings = load_config(config, set_ or [])
        print_check(settings, builder.check(settings))


@app.command(rich_help_panel=LOOK, epilog="[b]Example[/b]\n\nray-si status runs/quickstart --json")
def status(
    run: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where a run stands, while it is being built too."""
    with errors_as_exits():
        from ray_si.run.run import Run
        from ray_si.run.status import status as status_of

        status_ = status_of(Run.open(run))
        if as_json:
            typer.echo(json.dumps(status_, indent=2))
        else:
            print_status(run, status_)


@app.command(rich_help_panel=LOOK, epilog="[b]Example[/b]\n\nray-si verify runs/quickstart")
def verify(
    run: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every promise about a run on its stored bytes; exit status 1 if one is broken.

    Checksums and counts, ids, every candidate, demonstrations, the gate's decisions, instances,
    training shards, and that nothing else lies there. An unfinished run is checked as far as it
    goes.
    """
    with errors_as_exits():
        from ray_si.audit.verify import verify as verify_run

        with Steps() as steps:
            processes = min(_MOST_PROCESSES, len(os.sched_getaffinity(0)))
            checks = verify_run(run, processes=processes, listen=steps.listen)
        if as_json:
            typer.echo(json.dumps([check.as_dict() for check in checks], indent=2))
        else:
            print_verification(checks)
        if not all(check.ok for check in checks):
            raise typer.Exit(1)


@app.command(
    rich_help_panel=BUILD,
    epilog="[b]Examples[/b]\n\nray-si regate runs/mine --rouge 0.6 --to runs/stricter\n\n"
    "ray-si regate runs/mine --rouge 0.8 --cosine off --to runs/looser --open",
)
def regate(
    run: RunPath,
    to: Annotated[str, typer.Option("--to", metavar="RUN2", help="Folder of the new run.")],
    rouge: Annotated[
        float | None, typer.Option(help="Highest ROUGE-L F \\[default: the run's].")
    ] = None,
    cosine: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|off", help="Highest cosine \\[default: the run's]."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="auto|reference|unicode", help="What ROUGE-L compares."),
    ] = None,
    target: Annotated[
        int | None, typer.Option(help="Instructions to accept at most \\[default: the run's].")
    ] = None,
    open_: Annotated[
        bool,
        typer.Option(
            "--open", help="Leave RUN2 open for `ray-si build`, which writes missing instances."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take a finished run's decisions anew, with other thresholds and no model.

    The stored candidates are parsed, filtered and gated again, and RUN2 is a run like any other.
    What other thresholds would have prompted cannot be replayed: the candidates stay those of RUN.
    Instances are kept with their instructions; instructions newly accepted have no rows. Cosines
    are those of the stored embeddings; of a run that has none, or is of an earlier version, decide
    with --cosine off.
    """
    with errors_as_exits():
        from ray_si.audit.regate import regate as regate_run

        given = {"rouge": rouge, "cosine": cosine, "tokenizer": tokenizer}
        dedup: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if cosine == "off":
            dedup["cosine"] = None
        result = regate_run(run, to, dedup, target=target, open_=open_)
        if as_json:
            typer.echo(json.dumps(asdict(result), indent=2))
        else:
            print_regated(run, to, result)
