"""Verbs about rows: dedup."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_si.cli.common import USE, Address, app, errors_as_exits, interruptible
from ray_si.cli.output import DedupDisplay, print_dedup_summary


@app.command(
    rich_help_panel=USE,
    epilog="[b]Examples[/b]\n\n"
    "ray-si dedup a.jsonl b.jsonl.gz --to kept.jsonl\n\n"
    "ray-si dedup s3://data/train.parquet --to s3://data/kept.parquet --text-field question "
    "--against test.jsonl --cosine off",
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
    address: Address = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT where it exists.")
    ] = False,
) -> None:
    """Copy the rows that resemble no earlier one; the others go beside them, with the reason."""
    with errors_as_exits(), interruptible("nothing was written"):
        from ray_si.corpora.dedup import dedup_files, parse_cosine

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
