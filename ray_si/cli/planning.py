"""Verbs that look ahead: preview, estimate. They start no Ray and write nothing."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

from ray_si.cli.common import BUILD, ConfigPath, Overrides, app, errors_as_exits, interruptible
from ray_si.cli.output import console
from ray_si.cli.planning_output import print_estimate, print_preview
from ray_si.config.file import load_config


def _note(text: str) -> None:
    console(error=True).print(f"{text} ...", style="dim", markup=False, highlight=False)


@app.command(
    rich_help_panel=BUILD,
    epilog="[b]Examples[/b]\n\nray-si preview configs/quickstart.yaml\n\n"
    "ray-si preview configs/paper.yaml --set seeds=mine.jsonl --prompts 1 --instances 0 --json",
)
def preview(
    config: ConfigPath,
    set_: Overrides = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts to try.")] = 3,
    instances: Annotated[
        int, typer.Option(min=0, help="Accepted instructions to write instances for.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try a few prompts before anything is spent; nothing is written.

    Shows the first prompts that a build would send, what the model answers, and what would become
    of each line: kept, or refused by which rule, and for which earlier text. Then the instances of
    a few that were kept. The model is loaded once, in this process, without Ray.
    """
    with errors_as_exits(), interruptible("nothing was written"):
        from ray_si.planning.preview import DryRun

        started = time.monotonic()
        dry_run = DryRun(load_config(config, set_ or []), _note)
        decided = dry_run.decide(dry_run.ask(prompts, each_kind=True))
        written = dry_run.write(decided.accepted[:instances])
        if as_json:
            result = {
                "prompts": [asdict(item) for item in decided.answered],
                "instances": [asdict(item) for item in written],
            }
            typer.echo(json.dumps(result, indent=2))
        else:
            print_preview(decided.answered, written, time.monotonic() - started)


@app.command(
    rich_help_panel=BUILD,
    epilog="[b]Examples[/b]\n\nray-si estimate configs/quickstart.yaml --sample 24\n\n"
    'ray-si estimate configs/paper.yaml --set "generator.prices={prompt: 0.15, completion: 0.6}"',
)
def estimate(
    config: ConfigPath,
    set_: Overrides = None,
    sample: Annotated[int, typer.Option(min=4, help="Prompts to try.")] = 32,
    instances: Annotated[
        int, typer.Option(min=1, help="Accepted instructions to write instances for.")
    ] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate tokens, hours and cost for the target, from a short sample; nothing is written.

    The first prompts of the run are answered in this process, parsed, filtered and compared with
    the seed tasks and each other as the gate does. The ranges are 5th to 95th percentiles over 400
    random halves of the sample's completions. Acceptance falls as the pool grows: from how many of
    the sample each candidate is near to, it is modelled how many later ones will be refused (a beta
    distribution of shares, by moments). A target far beyond the sample is extrapolated far, a
    larger sample narrows the range, and no sample shows what later prompts with machine-written
    examples change. Cost goes by `generator.prices`.
    """
    with errors_as_exits(), interruptible("nothing was written"):
        from ray_si.planning.estimate import extrapolate, take_sample
        from ray_si.planning.preview import DryRun

        settings = load_config(config, set_ or [])
        result = extrapolate(take_sample(DryRun(settings, _note), sample, instances), settings)
        if as_json:
            typer.echo(json.dumps(result.as_dict(), indent=2))
        else:
            print_estimate(result)
