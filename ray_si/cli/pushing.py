"""The verb push: a run or an export as a dataset on a hub."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_si.cli.common import USE, app, errors_as_exits, interruptible
from ray_si.cli.output import Steps, print_dataset_files, print_pushed


@app.command(
    rich_help_panel=USE,
    epilog="[b]Examples[/b]\n\n"
    "ray-si push runs/quickstart me/my-tasks --dry-run\n\n"
    "ray-si push s3://datasets/paper my-lab/instructions --private --message 'First version'\n\n"
    "ray-si push train_data me/my-chats --card chats.md --branch v2",
)
def push(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="Folder of a run or of an export, or s3://bucket/prefix."
        ),
    ],
    repo: Annotated[
        str,
        typer.Argument(metavar="ORG/NAME", help="The dataset repository, made if missing."),
    ],
    private: Annotated[
        bool,
        typer.Option(
            "--private", help="Make the repository private; one that is public is refused."
        ),
    ] = False,
    branch: Annotated[
        str, typer.Option(metavar="NAME", help="Branch to commit to, made if missing.")
    ] = "main",
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    card: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.md", help="Dataset card instead of the run's README.md, or for an export."
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The hub, if it is neither $HF_ENDPOINT nor huggingface.co."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the files and list what would go; no network.")
    ] = False,
) -> None:
    """Put a finished run, or an export, on the Hugging Face hub as a dataset.

    Of a run go the training shards (those in Parquet, where there is JSONL too), the dataset card
    and the report; of an export its files. All are checked against their digests first, and go in
    one commit, which also removes the shards of an earlier version, so that the repository never
    shows half of a dataset. An empty repository or branch that was made for it stays if the upload
    fails.

    The token is $HF_TOKEN, or that of `hf auth login`. About 64 MB are in memory at a time, or the
    largest shard.
    """
    # at once: the client's threads would finish their uploads first
    stopped = "the hub has all of it or nothing, and the same command goes on"
    with errors_as_exits(), interruptible(stopped, at_once=True):
        from ray_si.export.dataset_files import dataset_files
        from ray_si.export.hub import Hub

        hub = Hub(repo, endpoint)
        files = dataset_files(source, card)
        if not dry_run:
            hub.check()
        with Steps() as steps:
            files.check(steps.listen)
            if not dry_run:
                pushed = hub.push(
                    files, message=message, branch=branch, private=private, listen=steps.listen
                )
        if dry_run:
            print_dataset_files(files, f"{repo} on {hub.host}")
        else:
            print_pushed(pushed, files)
