"""Slurm's script and SkyPilot's task, as far as they can be read without either."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest
import typer
import yaml

from ray_si.cli import app
from tests.clusters import ROOT
from tests.pages import command_lines, commands, parse

PAGE = (ROOT / "cluster" / "OTHERS.md").read_text()
SLURM = ROOT / "cluster" / "slurm.sh"
SKY = yaml.safe_load((ROOT / "cluster" / "sky.yaml").read_text())

SKY_KEYS = {
    *("name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup"),
    *("run", "volumes", "config", "service"),
}
SKY_RESOURCES = {
    *("infra", "accelerators", "accelerator_args", "cpus", "memory", "instance_type", "use_spot"),
    *("disk_size", "disk_tier", "network_tier", "max_hourly_cost", "image_id", "ports", "labels"),
    *("autostop", "any_of", "ordered", "job_recovery"),
}
"""Of SkyPilot's documents (reference/yaml-spec)."""

WORDS = {
    "environment": "/shared/.venv",
    "address": "10.0.0.1:6379",
    "head": "10.0.0.1",
    "config": "configs/gpu-1.yaml",
    "CONFIG": "configs/gpu-1.yaml",
    "run": "/shared/run",
    "RUN": "s3://b/run",
    "SLURM_JOB_NUM_NODES": "4",
    "SKYPILOT_NUM_NODES": "1",
    "SKYPILOT_NUM_GPUS_PER_NODE": "1",
}


def filled(text):
    """With values for variables, those with defaults too, and lines joined."""
    text = text.replace("\\\n", " ").replace("~/ray_si", "/shared/.venv")
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    return re.sub(r"\$(\w+)", lambda match: WORDS.get(match[1], match[0]), text)


def ray_and_build(line):
    """What Ray is given, and the build that it runs; both parsed as they would be."""
    from ray.scripts.symmetric_run import symmetric_run

    words = shlex.split(line.rstrip("& "))
    start = words.index("symmetric-run")
    assert words[start - 1].endswith("bin/ray")
    end = words.index("--", start)
    symmetric_run.make_context("symmetric-run", words[start + 1 :])
    build = words[end + 1 :]
    assert build[0].endswith("bin/ray-si")
    parse(typer.main.get_command(app), ["ray-si", *build[1:]])
    return words[start + 1 : end], build


def test_slurms_script_is_one_that_bash_reads():
    assert subprocess.run(["bash", "-n", SLURM], check=False).returncode == 0
    directives = re.findall(r"^#SBATCH (--[\w-]+)=", SLURM.read_text(), re.M)
    assert {"--ntasks-per-node", "--exclusive", "--signal"} <= {*directives, "--exclusive"}


def test_slurm_runs_ray_on_all_nodes_and_a_build_that_keeps_its_log():
    (line,) = [
        x for x in filled(SLURM.read_text()).splitlines() if "symmetric-run" in x and "srun" in x
    ]
    options, build = ray_and_build(line)
    assert options[:4] == ["--address", "10.0.0.1:6379", "--min-nodes", "4"]
    assert build[1:] == [
        *("build", "configs/gpu-1.yaml", "--out", "/shared/run"),
        *("--address", "10.0.0.1:6379", "--keep-log"),
    ]


@pytest.mark.parametrize(("status", "signalled"), [(0, True), (7, True), (3, False)])
def test_slurms_script_waits_for_a_build_that_ends_itself_and_has_its_status(
    tmp_path, status, signalled
):
    stubs = {
        "scontrol": "echo node-1",
        "srun": f"""
            case "$*" in *hostname*) echo 10.0.0.1; exit ;; esac
            trap 'sleep 0.2; touch kept; exit {status}' TERM
            {"kill -TERM $PPID" if signalled else "kill -TERM $$"}
            while true; do sleep 0.01; done""",
    }
    for name, text in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "SLURM_JOB_NODELIST": "node-1",
        "SLURM_JOB_NUM_NODES": "1",
    }
    done = subprocess.run(
        ["bash", SLURM, "run.yaml", "run"], cwd=tmp_path, env=environment, timeout=60, check=False
    )
    assert (done.returncode, (tmp_path / "kept").exists()) == (status, True)


def test_ray_start_takes_what_symmetric_run_hands_on():
    from ray.scripts.scripts import start

    for text in (SLURM.read_text(), SKY["run"]):
        (line,) = [x for x in filled(text).splitlines() if "symmetric-run" in x and "build" in x]
        options, _ = ray_and_build(line)
        rest = options[options.index("--min-nodes") + 2 :]
        start.make_context("start", rest)


def test_skypilots_task_has_keys_of_its_documents_a_ceiling_and_an_end():
    assert SKY.keys() <= SKY_KEYS
    resources = SKY["resources"]
    assert resources.keys() <= SKY_RESOURCES
    assert resources["max_hourly_cost"] > 0
    assert resources["autostop"] == {"idle_minutes": 10, "down": True}
    assert SKY["secrets"] == {"HF_TOKEN": ""}, "by reference, from the environment"
    for part in ("setup", "run"):
        done = subprocess.run(["bash", "-n"], input=SKY[part], text=True, check=False)
        assert done.returncode == 0


@pytest.mark.parametrize("program", ["sbatch", "sky"])
def test_commands_of_the_page_name_files_and_variables_that_there_are(program):
    found = commands(command_lines(PAGE, "sh"), program)
    assert found
    for words in found:
        for word in words:
            if word.startswith(("cluster/", "configs/")):
                assert (ROOT / word).is_file()
            if "=" in word and program == "sky":
                assert word.partition("=")[0] in SKY["envs"]
