"""The command line: one function per verb."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from typing import Annotated, Any

import typer

from ray_si import __version__
from ray_si.cli_output import (
    BuildDisplay,
    DedupDisplay,
    console,
    print_check,
    print_dedup_summary,
    print_regated,
    print_status,
    print_summary,
    print_verification,
)
from ray_si.config import load_config
from ray_si.errors import RaySIError, UserError
from ray_si.self_instruct.formats import FORMATS, to_row

app = typer.Typer(
    help="Build instruction-tuning datasets the Self-Instruct way, on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Format = Enum("Format", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]

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


@contextmanager
def _errors() -> Iterator[None]:
    """One line and an exit status for what went wrong: 2 for the user's to mend, 1 otherwise."""
    try:
        yield
    except UserError as error:
        console(error=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    except RaySIError as error:
        console(error=True).print(f"{error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


@contextmanager
def _interruptible(consequence: str) -> Iterator[None]:
    """SIGTERM as Ctrl-C; both end with what that means, and the usual exit statuses.

    The process then leaves without Python's own farewell, which would wait for rounds begun ahead,
    and Ray, once closed, may never let go of those. A second signal does not wait for Ray either.
    """
    status = 0

    def leave() -> None:
        console(error=True).print(f"stopped; {consequence}", markup=False, highlight=False)
        sys.stdout.flush()
        os._exit(status or 128 + signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        nonlocal status
        if status:
            leave()
        status = 128 + number
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        leave()  # SystemExit: Ray's own SIGTERM handler, which is up while `ray.init` runs
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Options that come before the verb."""
    if version:
        typer.echo(f"ray_si {__version__}")
        raise typer.Exit


@app.command(
    epilog="[b]Examples[/b]\n\n"
    "ray-si build configs/quickstart.yaml --out runs/quickstart\n\n"
    "ray-si build configs/paper.yaml --out runs/paper --set generator.replicas=8 "
    "--set generator.gpus=1 --address auto"
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
) -> None:
    """Build a dataset, or go on with one: the same command resumes."""
    kept = f"what is finished is kept in {out}. The same command goes on from there."
    with _errors(), _interruptible(kept):
        from ray_si.distributed import builder

        settings = load_config(config, set_ or [])
        with BuildDisplay() as display:
            result = builder.build(
                settings, out, address=address, listen=display.listen, finish=finish
            )
        print_summary(out, result.stats, result.seconds)


@app.command(epilog="[b]Example[/b]\n\nray-si check configs/paper.yaml --set seeds=mine.jsonl")
def check(config: ConfigPath, set_: Overrides = None) -> None:
    """Check configuration, seed tasks and models without starting anything."""
    with _errors():
        from ray_si.distributed import builder

        settings = load_config(config, set_ or [])
        seeds, digest = builder.check(settings)
        print_check(settings, seeds, digest)


@app.command(epilog="[b]Example[/b]\n\nray-si status runs/quickstart --json")
def status(
    run: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where a run stands, while it is being built too."""
    with _errors():
        from ray_si.storage.run import Run

        found = Run.open(run).status()
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        else:
            print_status(run, found)


@app.command(epilog="[b]Example[/b]\n\nray-si verify runs/quickstart")
def verify(
    run: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every promise about a run on its stored bytes; exit status 1 if one is broken.

    Checksums and counts, ids, every candidate, demonstrations, the gate's decisions, instances,
    training shards, and that nothing else lies there. An unfinished run is checked as far as it
    goes.
    """
    with _errors():
        from ray_si.distributed.verify import verify as verify_run

        checks = verify_run(run)
        if as_json:
            typer.echo(json.dumps([check.as_dict() for check in checks], indent=2))
        else:
            print_verification(checks)
        if not all(check.ok for check in checks):
            raise typer.Exit(1)


@app.command(
    epilog="[b]Examples[/b]\n\nray-si regate runs/mine --rouge 0.6 --to runs/stricter\n\n"
    "ray-si regate runs/mine --rouge 0.8 --cosine off --to runs/looser --open"
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
        typer.Option(metavar="reference|unicode", help="What ROUGE-L compares."),
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
    Instances are kept with their instructions; instructions newly accepted have no rows. A cosine
    gate needs embeddings, which a run stores for what it accepted only: where a decision lacks
    one, nothing is written and --cosine off is the way.
    """
    with _errors():
        from ray_si.distributed.regate import regate as regate_run

        given = {"rouge": rouge, "cosine": cosine, "tokenizer": tokenizer}
        dedup: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if cosine == "off":
            dedup["cosine"] = None
        result = regate_run(run, to, dedup, target=target, open_=open_)
        if as_json:
            typer.echo(json.dumps(asdict(result), indent=2))
        else:
            print_regated(run, to, result)


@app.command(
    epilog="[b]Example[/b]\n\nray-si export runs/quickstart --format messages --to train_data"
)
def export(
    run: RunPath,
    format_: Annotated[Format, typer.Option("--format", help="Layout of the rows.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="DIR", help="Folder, or s3://bucket/prefix, to write into."),
    ],
) -> None:
    """Write a finished run's rows as JSONL that fine-tuning libraries read."""
    with _errors():
        from ray_si.records import Instance
        from ray_si.storage.export import export_jsonl
        from ray_si.storage.run import Run

        def convert(row: dict[str, Any]) -> dict[str, Any]:
            return to_row(row["instruction"], Instance(row["input"], row["output"]), format_.value)

        name = f"{format_.value}.jsonl"
        count = export_jsonl(Run.open(run), to, name, convert)
        console().print(f"{count} rows written to {to}/{name}", markup=False, highlight=False)


@app.command(
    epilog="[b]Examples[/b]\n\n"
    "ray-si dedup a.jsonl b.jsonl.gz --to kept.jsonl\n\n"
    "ray-si dedup s3://data/train.parquet --to s3://data/kept.parquet --text-field question "
    "--against test.jsonl --cosine off"
)
def dedup(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="JSONL (plain, .gz, .zst) or Parquet files."),
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="OUT", help="File for what is kept, of the inputs' kind."),
    ],
    text_field: Annotated[
        str, typer.Option(metavar="NAME", help="Field or column with the text.")
    ] = "instruction",
    rouge: Annotated[
        float, typer.Option(help="Highest ROUGE-L F with any earlier text, in (0, 1].")
    ] = 0.7,
    cosine: Annotated[
        str, typer.Option(help="Highest cosine similarity with any earlier text, or off.")
    ] = "0.9",
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Texts that nothing may resemble; repeat for more."),
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help="Of ROUGE-L: reference (a-z, 0-9) or unicode (any script).")
    ] = "reference",
    shards: Annotated[int, typer.Option(help="Parts of the gate; more than one run on Ray.")] = 1,
    embedder: Annotated[
        str, typer.Option(metavar="MODEL", help="Of the cosine: bundled, a folder, or on the hub.")
    ] = "all-minilm-l6-v2",
    address: Address = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT where it exists.")
    ] = False,
) -> None:
    """Copy the rows that resemble no earlier one; the others go beside them, with the reason."""
    with _errors(), _interruptible("nothing was written"):
        from ray_si.distributed.dedup_files import dedup_files, parse_cosine

        with DedupDisplay() as display:
            report = dedup_files(
                inputs,
                to,
                text_field=text_field,
                rouge=rouge,
                cosine=parse_cosine(cosine),
                against=against or [],
                tokenizer=tokenizer,
                shards=shards,
                embedder=embedder,
                address=address,
                overwrite=overwrite,
                listen=display.listen,
            )
        print_dedup_summary(report)
