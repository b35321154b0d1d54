"""The verb export: a finished run's rows as files for training."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_si.cli.common import USE, RunPath, app, errors_as_exits, interruptible
from ray_si.cli.output import ExportDisplay, console
from ray_si.errors import ConfigError
from ray_si.export.shard_files import KINDS
from ray_si.self_instruct.formats import FORMATS, Layout, layout, mapped

if TYPE_CHECKING:
    from ray_si.export.training_lines import Source
    from ray_si.run.run import Run

Format = Enum("Format", {name: name for name in (*FORMATS, "preference")}, type=str)  # type: ignore[misc]
Kind = Enum("Kind", {name: name for name in KINDS}, type=str)  # type: ignore[misc]

_JSONL = Kind("jsonl")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@app.command(
    rich_help_panel=USE,
    epilog="[b]Examples[/b]\n\n"
    "ray-si export runs/quickstart --format messages --to train_data\n\n"
    "ray-si export runs/mine --format prompt-completion-varied --to s3://bucket/data "
    "--files jsonl.zst --bytes-per-shard 500MB --shuffle --validation 0.02\n\n"
    "ray-si export runs/mine --map question=prompt --map answer=output --map id=id --to qa",
)
def export(
    run: RunPath,
    to: Annotated[
        str,
        typer.Option("--to", metavar="DIR", help="Folder, or s3://bucket/prefix, to write into."),
    ],
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Layout of the rows; conversations is ShareGPT's, and prompt-completion-varied "
            "writes prompts in the varied ways of the paper's code, inputs rewritten as there, and "
            "of equal rows one.",
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=FIELD",
            help="Instead of --format: a field of your own, from instruction, input, output, "
            "prompt (the first two), id, is_classification, another column or a score; repeat for "
            "more.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="SCORE",
            help="What preference goes by: a score of all answers, see score --answers "
            "\\[default: their likelihood].",
        ),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option("--scores", metavar="DIR", help="Where scores are \\[default: RUN/scores]."),
    ] = None,
    files: Annotated[Kind, typer.Option("--files", help="Kind of the files.")] = _JSONL,
    rows_per_shard: Annotated[
        int | None, typer.Option(metavar="N", help="Rows in a file; without, there is one.")
    ] = None,
    bytes_per_shard: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes of JSON in a file at most: 500MB, 64MiB."),
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Put the rows in random order.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the order, the split and the varied prompts.")
    ] = 0,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|N",
            help="Set instructions aside, with all their rows: a share like 0.05, or a number.",
        ),
    ] = None,
    seed_tasks: Annotated[
        bool, typer.Option("--seed-tasks", help="Add the run's seed tasks, with their instances.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="What file names begin with \\[default: the format's].")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an export of this name.")
    ] = False,
) -> None:
    """Write a finished run's rows as files that fine-tuning libraries read.

    The same command writes the same bytes. _NAME.manifest beside the files has the rows, size and
    SHA-256 of each; it comes last, so a folder without it is not finished.
    """
    with errors_as_exits(), interruptible("nothing new is finished"):
        from ray_si.export.training_files import Options, write_training_files
        from ray_si.run.run import Run

        opened = Run.open(run)
        rows, source, description = _layout(opened, format_, map_, by, scores)
        if source is not None and seed_tasks:
            raise ConfigError("--seed-tasks: seed tasks have no scores and one answer each")
        options = Options(
            name=name or rows.name,
            kind=files.value,
            rows_per_shard=rows_per_shard,
            bytes_per_shard=_size(bytes_per_shard),
            shuffle=shuffle,
            seed=seed,
            validation=_share(validation),
            seed_tasks=seed_tasks,
            overwrite=overwrite,
        )
        with ExportDisplay() as display:
            done = write_training_files(
                opened, to, rows, options, description, display.listen, source
            )
        counts = ", ".join(f"{count} {split}" for split, count in done.rows.items())
        count = counts if len(done.rows) > 1 else str(done.rows["train"])
        written = [key for key in done.keys if key != options.manifest]
        place = written[0] if len(written) == 1 else f"{len(written)} files of {options.name}"
        where = f"{to}/{place}" if len(written) == 1 else f"{to} ({place})"
        equal = f" ({done.equal_rows} equal ones left out)" if done.equal_rows else ""
        console().print(f"{count} rows written to {where}{equal}", markup=False, highlight=False)


def _layout(
    run: Run, format_: Any, map_: list[str] | None, by: str | None, scores_at: str | None
) -> tuple[Layout, Source | None, dict[str, Any]]:
    """The layout asked for, its source where that is not the shards alone, and words on it."""
    from ray_si.export.rows import schema_of_rows
    from ray_si.scores.joined import ScoredSource
    from ray_si.scores.preference import LIKELIHOOD, PairSource, preference
    from ray_si.scores.stored import StoredScores

    if (format_ is None) == (not map_):
        raise ConfigError("name a --format, or fields with --map, and not both")
    if by is not None and (format_ is None or format_.value != "preference"):
        raise ConfigError("--by is for --format preference: to choose rows, use ray-si select")
    if format_ is not None and format_.value == "preference":
        pairs = PairSource(run, by or LIKELIHOOD, scores_at)
        counts = {"by": by or LIKELIHOOD, "without_pair": pairs.alone}
        return preference(), pairs, {"format": "preference", **counts}
    if format_ is not None:
        return layout(format_.value), None, {"format": format_.value}
    assert map_
    stored = StoredScores(run, scores_at)
    try:
        fields = mapped(map_, [*schema_of_rows(run).names, *stored.names])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    named = [name for name in stored.names if name in fields.columns]
    source = ScoredSource(run, stored, named) if named else None
    return fields, source, {"format": "mapped", "map": map_}


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?|)b?", text.strip().lower())
    if not match:
        raise ConfigError(f"--bytes-per-shard is a size like 500MB or 64MiB, not {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _share(text: str | None) -> float | int | None:
    if text is None:
        return None
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError as error:
        raise ConfigError(
            f"--validation is a share like 0.05 or a number of instructions, not {text!r}"
        ) from error
