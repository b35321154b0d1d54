"""Verbs about rows: dedup, verify-removals."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ray_si.cli.common import USE, Address, app, errors_as_exits, interruptible
from ray_si.cli.output import DedupDisplay, print_dedup_summary, print_removals


@app.command(
    rich_help_panel=USE,
    epilog="[b]Examples[/b]\n\n"
    "ray-si dedup a.jsonl b.jsonl.gz --to kept.jsonl\n\n"
    "ray-si dedup s3://data/train.parquet --to s3://data/kept.parquet --text-field question "
    "--against test.jsonl --cosine off\n\n"
    "ray-si dedup week-12.jsonl --to new.jsonl --index s3://data/seen\n\n"
    "ray-si dedup s3://data/a.parquet s3://data/b.parquet --to s3://data/kept.parquet --shards 8 "
    "--embedder-gpus 1 --address auto",
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
        str,
        typer.Option(help="Of ROUGE-L: auto (any script) or reference (the paper's: a-z, 0-9)."),
    ] = "auto",
    shards: Annotated[int, typer.Option(help="Parts of the gate; more than one run on Ray.")] = 1,
    embedder: Annotated[
        str, typer.Option(metavar="MODEL", help="Of the cosine: bundled, a folder, or on the hub.")
    ] = "all-minilm-l6-v2",
    embedders: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Actors on Ray that embed; by default as many as it has room for, or this process "
            "where nothing else needs Ray.",
        ),
    ] = None,
    embedder_gpus: Annotated[
        float, typer.Option(metavar="SHARE", help="Of a GPU, for each embedder on Ray.")
    ] = 0.0,
    gate_gpus: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Of a GPU, for each shard, which compares cosines there."
        ),
    ] = 0.0,
    address: Address = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT where it exists.")
    ] = False,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="Pass over rows that cannot be read; each is counted and named beside OUT.",
        ),
    ] = False,
    index: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Folder or s3:// prefix of what was kept before; it takes the new."
        ),
    ] = None,
    discard_unfinished: Annotated[
        bool,
        typer.Option(
            "--discard-unfinished", help="Give up the job that the index is in the middle of."
        ),
    ] = False,
) -> None:
    """Copy the rows that resemble no earlier one; the others go beside them, with the reason."""
    consequence = "run it again to go on" if index else "nothing was written"
    with errors_as_exits(), interruptible(consequence):
        from ray_si.corpora.dedup import dedup_files
        from ray_si.corpora.options import parse_cosine

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
                embedders=embedders,
                embedder_gpus=embedder_gpus,
                gate_gpus=gate_gpus,
                address=address,
                overwrite=overwrite,
                skip_unreadable=skip_unreadable,
                index=index,
                discard_unfinished=discard_unfinished,
                listen=display.listen,
            )
        print_dedup_summary(report)


@app.command(
    "verify-removals",
    rich_help_panel=USE,
    epilog="[b]Examples[/b]\n\n"
    "ray-si verify-removals pairs.jsonl\n\n"
    "ray-si verify-removals clusters.jsonl --corpus train.jsonl --to unfounded.jsonl\n\n"
    "ray-si verify-removals kept.jsonl --corpus train.jsonl --cosine off",
)
def verify_removals(
    removals: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Pairs (removed, kept), clusters (cluster), or what was kept."
        ),
    ],
    corpus: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="What was deduplicated; repeat for more."),
    ] = None,
    text_field: Annotated[
        str, typer.Option(metavar="NAME", help="Field or column with the text.")
    ] = "instruction",
    id_field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the corpus, where FILE names rows by it."),
    ] = None,
    rouge: Annotated[float, typer.Option(help="ROUGE-L F above which texts are alike.")] = 0.7,
    cosine: Annotated[
        str, typer.Option(help="Cosine similarity above which texts are alike, or off.")
    ] = "0.9",
    tokenizer: Annotated[str, typer.Option(help="Of ROUGE-L: auto or reference.")] = "auto",
    embedder: Annotated[
        str, typer.Option(metavar="MODEL", help="Of the cosine: bundled, a folder, or on the hub.")
    ] = "all-minilm-l6-v2",
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="OUT", help="JSONL file for all that is no near-duplicate."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which removals of any deduplication tool are no near-duplicates of what it kept."""
    with errors_as_exits(), interruptible("nothing was written"):
        from ray_si.corpora.options import parse_cosine
        from ray_si.corpora.removals import write_unfounded

        report = write_unfounded(
            removals,
            to,
            corpus=corpus or [],
            text_field=text_field,
            id_field=id_field,
            rouge=rouge,
            cosine=parse_cosine(cosine),
            tokenizer=tokenizer,
            embedder=embedder,
        )
        if as_json:
            typer.echo(json.dumps(asdict(report), indent=2, ensure_ascii=False))
        else:
            print_removals(report)
