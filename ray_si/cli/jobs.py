"""Verbs about a cluster and its jobs: cluster render, submit, jobs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ray_si.cli.common import CLUSTER, ConfigPath, Overrides, app, errors_as_exits
from ray_si.cli.output import console, print_jobs
from ray_si.config.file import load_config

if TYPE_CHECKING:
    from ray_si.submission.jobs import Cluster, Outcome

DashboardAddress = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard; without it $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, else "
        "http://127.0.0.1:8265."
    ),
]


cluster_app = typer.Typer(
    help="Make a cluster's files; nothing is started.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cluster_app, name="cluster", rich_help_panel=CLUSTER)


@cluster_app.callback()
def _verbs() -> None:
    """Make a cluster's files; nothing is started."""


@cluster_app.command(
    epilog="[b]Examples[/b]\n\nray-si cluster render cluster/values.yaml --for aws --to mine\n\n"
    "ray-si cluster render cluster/values.yaml --for kubernetes --to mine "
    "--set bucket=my-datasets --set job.config=configs/gpu-1.yaml"
)
def render(
    values: Annotated[
        str, typer.Argument(metavar="VALUES", help="What the cluster is made of, in YAML.")
    ],
    platform: Annotated[
        Literal["aws", "gcp", "kubernetes"],
        typer.Option("--for", help="Ray's launcher on AWS or Google Cloud, or KubeRay."),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the files.")],
    set_: Overrides = None,
) -> None:
    """Write a cluster's files for a platform from one small file of values.

    Checked first, as far as it can be known before anything is rented: what all nodes may cost at
    the most, images, references to secrets, and, with job.config, that the groups have room for the
    run's replicas and the head for its target.
    """
    with errors_as_exits():
        from ray_si.provision import checks, render as rendering

        settings = rendering.load_values(values, set_ or [])
        files = rendering.render(settings, platform, values)
        rendering.write(files, to)
        for name in sorted(files):
            typer.echo(str(to / name))
        most = checks.most_dollars_per_hour(settings, platform)
        typer.echo(
            f"at the most ${most:,.2f} an hour, for {settings.most_nodes} workers and a head"
        )


@app.command(
    rich_help_panel=CLUSTER,
    epilog="[b]Examples[/b]\n\n"
    "ray-si submit configs/paper.yaml --out s3://datasets/paper --address http://127.0.0.1:8265\n\n"
    "ray-si submit configs/gpu-1.yaml --out s3://datasets/large --set seeds=mine.jsonl "
    "--env AWS_DEFAULT_REGION=eu-central-1 --no-follow",
)
def submit(
    config: ConfigPath,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="RUN",
            help="s3://bucket/prefix, or an absolute path that all nodes share.",
        ),
    ],
    set_: Overrides = None,
    address: DashboardAddress = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Stop bootstrapping; go on with what is accepted.")
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="File or folder to send along, without what is hidden in it, links to folders, "
            "data, runs, venv and node_modules; repeat for more.",
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]",
            help="Environment variable of the job, no secret; repeat for more.",
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="Times that the job begins a killed driver again, and that a job lost with its "
            "node or head is submitted again from here.",
        ),
    ] = 3,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show the job's log until it is over.")
    ] = True,
) -> None:
    """Build a dataset as a job on a cluster, or go on with one: the same command resumes.

    Checks the configuration and the seed tasks, packages them with ray_si itself, submits, follows
    the log, and ends with the job's exit status. Ctrl-C leaves the job running.
    """
    with errors_as_exits():
        from ray_si.build.builder import check_inputs
        from ray_si.submission import jobs, packaging

        settings = load_config(config, set_ or [])
        jobs.check_out(out)
        variables = jobs.parse_env(env or [])
        check_inputs(settings)
        with tempfile.TemporaryDirectory(prefix="ray-si-") as folder:
            package = packaging.pack(settings, Path(folder) / "package.zip", include or [])
            cluster = jobs.Cluster(address)
            _say(f"{package.files} files, {package.size / 2**20:.1f} MiB, to {cluster.address}")
            if package.left_out:
                names = ", ".join(package.left_out[:5]) + ", ..." * (len(package.left_out) > 5)
                _say(f"left at home (hidden, links, data, runs, environments): {names}")
            last, has_submitted = "", False

            def notify(message: str) -> None:
                nonlocal last, has_submitted
                if message.startswith(("submitting as ", "submitted as ")):
                    word, last = message.split(" as ", 1)
                    has_submitted = word == "submitted"
                elif message.startswith(f"job {last} is lost "):
                    last = ""
                _say(message)

            try:
                if not follow:
                    id_ = cluster.submit(
                        package, out, finish=finish, env=variables, retries=retries, notify=notify
                    )
                    _say(f"submitted as {id_}; {_how_to(id_, cluster.address)}")
                    return
                outcome = cluster.run(
                    package,
                    out,
                    retries=retries,
                    write=_write,
                    notify=notify,
                    finish=finish,
                    env=variables,
                )
            except KeyboardInterrupt:
                _leave(last, cluster, has_submitted=has_submitted)
        _end(outcome, out)


@app.command(
    rich_help_panel=CLUSTER,
    epilog="[b]Examples[/b]\n\nray-si jobs --address http://127.0.0.1:8265\n\n"
    "ray-si jobs --follow ray-si-3f2a91c04d\n\nray-si jobs --stop ray-si-3f2a91c04d",
)
def jobs(
    address: DashboardAddress = None,
    stop: Annotated[str | None, typer.Option(metavar="ID", help="End this job.")] = None,
    follow: Annotated[
        str | None, typer.Option(metavar="ID", help="Show this job's log until it is over.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List a cluster's jobs; with --stop end one, with --follow show its log.

    A stopped job keeps what it has finished; submitting the same again goes on from there.
    """
    with errors_as_exits():
        from ray_si.submission import jobs as cluster_jobs

        cluster = cluster_jobs.Cluster(address)
        if stop:
            job = cluster.stop(stop)
            if not job.status.is_terminal():
                _say(f"{stop}: {job.status}; it was told to end, and has not yet")
                raise typer.Exit(1)
            _say(f"{stop}: {job.status}; what is finished is kept, and the same submit goes on")
        elif follow:
            run = cluster_jobs.run_of(cluster.job(follow))
            try:
                outcome = cluster.follow(follow, _write, _say)
            except KeyboardInterrupt:
                _leave(follow, cluster)
            _end(outcome, run)
        elif as_json:
            rows = [cluster_jobs.summary_of(job) for job in cluster.jobs()]
            typer.echo(json.dumps(rows, indent=2))
        else:
            print_jobs([cluster_jobs.summary_of(job) for job in cluster.jobs()])


def _say(message: str) -> None:
    console(error=True).print(message, markup=False, highlight=False)


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _how_to(id_: str, address: str) -> str:
    return (
        f"follow it with: ray-si jobs --address {address} --follow {id_}, "
        f"end it with: ray-si jobs --address {address} --stop {id_}"
    )


def _leave(id_: str, cluster: Cluster, *, has_submitted: bool = True) -> None:
    """End after Ctrl-C, which is for this command and not for the job."""
    if not id_:
        _say("\nno job of this command goes on")
    elif has_submitted:
        _say(f"\nthe job goes on; {_how_to(id_, cluster.address)}")
    else:
        _say(f"\n{id_} may have been submitted; {_how_to(id_, cluster.address)}")
    raise typer.Exit(130)


def _end(outcome: Outcome, run: str | None) -> None:
    """Say how the job ended, and end with its status."""
    if outcome.exit_code == 0:
        _say(f"the job succeeded{f': {run}' if run else ''}")
        return
    kept = f"; what is finished is kept in {run}, and the same submit goes on" if run else ""
    _say(f"the job's end: {outcome.status}, {outcome.reason or 'no reason given'}{kept}")
    raise typer.Exit(outcome.exit_code)
