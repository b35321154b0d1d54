"""What a job takes along is small, complete, and the same bytes each time."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ray_si
from ray_si.config.file import load_config, parse_config
from ray_si.errors import ConfigError
from ray_si.run.evaluation import load_sets
from ray_si.run.seeds import load_seeds
from ray_si.submission.packaging import CONFIG_NAME, LIMIT, pack
from tests.clusters import ROOT

BUNDLED = Path(ray_si.__file__).parent / "data" / "seed_tasks.jsonl"


def values(**generator):
    return {
        "generator": {"engine": "replay", "model": None, **generator},
        "dedup": {"cosine": None},
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with what must not travel, and what may."""
    for name in (".git/objects/x", ".venv/lib/x.py", "data/x", "runs/x", "a/__pycache__/x.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(os.urandom(1000))
    (tmp_path / "a" / "mine.py").write_text("X = 1\n")
    (tmp_path / "notes.txt").write_text("notes\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(package):
    with zipfile.ZipFile(package.path) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


def test_a_package_holds_ray_si_and_the_configuration_and_little_else(tmp_path):
    package = pack(parse_config(values()), tmp_path / "p.zip", [])
    found = names(package)
    assert {CONFIG_NAME, "ray_si/__main__.py", "ray_si/data/seed_tasks.jsonl"} <= found
    assert all(name == CONFIG_NAME or name.startswith("ray_si/") for name in found)
    assert not any("__pycache__" in name for name in found)
    assert package.size < 2 << 20


def test_the_packaged_run_is_the_run_that_was_checked(tmp_path):
    """Unpacked elsewhere, by another process, as a job has it."""
    seeds = tmp_path / "mine.jsonl"
    seeds.write_text(
        "".join(
            f'{{"id": "m{i}", "name": "n", "instruction": "Name {i} rivers of Asia.", '
            '"instances": [{"input": "", "output": "x"}], "is_classification": false}\n'
            for i in range(8)
        )
    )
    recording = tmp_path / "answers.jsonl"
    recording.write_text("")
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"instruction": "Name the capital of Peru."}\n')
    given = values(replay={"recording": str(recording)}) | {"seeds": str(seeds), "seed": 7}
    given["decontaminate"] = [str(held_out)]
    config = parse_config(given)
    package = pack(config, tmp_path / "p.zip", [])
    with zipfile.ZipFile(package.path) as archive:
        archive.extractall(tmp_path / "job")
    code = (
        "import ray_si; from ray_si.config.file import load_config; "
        f"from ray_si.run.seeds import load_seeds; c = load_config('{CONFIG_NAME}'); "
        "print(c.fingerprint(load_seeds(c.seeds)[1]), c.generator.replay.recording); "
        "print(ray_si.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "job",
        capture_output=True,
        text=True,
        check=True,
    )
    fingerprint, recorded, where = done.stdout.split()
    there = load_config(tmp_path / "job" / CONFIG_NAME)
    left_out = {"seeds", "generator", "decontaminate"}
    assert there.model_dump(exclude=left_out) == config.model_dump(exclude=left_out)
    (name,) = there.decontaminate
    assert (tmp_path / "job" / name).read_bytes() == held_out.read_bytes()
    assert name.endswith("sets/0/held_out.jsonl")
    expected = config.model_copy(update={"generator": there.generator})
    assert fingerprint == expected.fingerprint(load_seeds(str(seeds))[1])
    assert recorded == "ray_si_job/generator-recording.jsonl"
    assert where.startswith(str(tmp_path / "job"))


def test_what_a_configuration_leaves_open_is_as_a_run_began_with_it_in_a_job_too(tmp_path):
    open_ = values(sampling={"classification": {"max_tokens": 9}})
    config = parse_config(open_ | {"bootstrap": {"fit_to_slots": True}})
    begun = config.model_dump(mode="json")
    begun["bootstrap"]["prompts_per_round"] += 1  # on other hardware
    begun["dedup"]["tokenizer"] = "reference"  # as defaults were
    begun["generator"]["sampling"]["classification"]["temperature"] = 0.7
    with zipfile.ZipFile(pack(config, tmp_path / "p.zip", []).path) as archive:
        archive.extract(CONFIG_NAME, tmp_path)
    there = load_config(tmp_path / CONFIG_NAME)
    assert there == config
    assert there.as_begun(begun).fingerprint("x") == parse_config(begun).fingerprint("x")


def test_included_folders_leave_git_environments_data_and_runs_at_home(folder):
    package = pack(parse_config(values()), folder / "p.zip", ["a", "notes.txt"])
    assert {"a/mine.py", "notes.txt"} <= names(package)
    everything = names(pack(parse_config(values()), folder.parent / "q.zip", ["."]))
    own = {name for name in everything if not name.startswith("ray_si/")}
    assert own == {"a/mine.py", "notes.txt", "p.zip", CONFIG_NAME}


def test_nothing_included_takes_the_place_of_what_the_run_reads(folder):
    mine = BUNDLED.read_text().splitlines()
    (folder / "mine.jsonl").write_text("\n".join(mine[:20]))
    (folder / "run.yaml").write_text("target_instructions: 1\n")
    (folder / "seeds.jsonl").write_text("not a seed")
    for name in ("ray_si_job/run.yaml", "ray_si_job/seeds.jsonl", "ray_si/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    config = parse_config(values() | {"seeds": "mine.jsonl", "target_instructions": 77})
    package = pack(config, folder.parent / "p.zip", ["."])
    with zipfile.ZipFile(package.path) as archive:
        assert len(archive.namelist()) == len(set(archive.namelist()))
        archive.extractall(folder.parent / "job")
    there = load_config(folder.parent / "job" / CONFIG_NAME)
    assert there.target_instructions == 77
    assert len(load_seeds(str(folder.parent / "job" / there.seeds))[0]) == 20
    assert "__version__" in (folder.parent / "job" / "ray_si" / "__init__.py").read_text()
    assert (folder.parent / "job" / "run.yaml").read_text() == "target_instructions: 1\n"


def test_what_is_hidden_and_what_links_lead_out_to_stay_at_home(folder):
    (folder.parent / "outside.txt").write_text("private")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "x.txt").write_text("private")
    (folder / "a" / "link.txt").symlink_to(folder.parent / "outside.txt")
    (folder / "a" / "within.txt").symlink_to(folder / "a" / "mine.py")
    (folder / "a" / "linked").symlink_to(folder.parent / "elsewhere")
    for name in (".env", "a/.env.local", "a/.aws/credentials"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("KEY=hush")
    package = pack(parse_config(values()), folder.parent / "p.zip", ["."])
    included = {name for name in names(package) if not name.startswith("ray_si/")}
    assert included == {"a/mine.py", "a/within.txt", "notes.txt", CONFIG_NAME}
    hidden = {".env", "a/.env.local", "a/.aws/credentials", "a/link.txt"}
    assert {"a/linked/"} | hidden <= set(package.left_out)
    folders = [name.endswith("/") for name in package.left_out]
    assert folders == sorted(folders, reverse=True), "what may be missed comes first"
    asked_for = pack(parse_config(values()), folder.parent / "q.zip", [".env"])
    assert ".env" in names(asked_for)


def test_folders_that_are_skipped_by_their_names_are_told(folder):
    (folder / "a" / "data").mkdir()
    package = pack(parse_config(values()), folder.parent / "p.zip", ["a"])
    assert package.left_out == ("a/data/",)


def test_a_linked_folder_keeps_its_name(folder):
    (folder / "linked").symlink_to(folder / "a")
    package = pack(parse_config(values()), folder.parent / "p.zip", ["linked"])
    assert "linked/mine.py" in names(package)


def test_two_files_of_one_name_are_refused(folder):
    (folder / "a" / "notes.txt").write_text("others\n")
    config = parse_config(values())
    pack(config, folder.parent / "p.zip", [".", "notes.txt"])  # one file
    with pytest.raises(ConfigError, match=r"notes\.txt would be notes\.txt .* rename one"):
        pack(config, folder.parent / "q.zip", ["notes.txt", "a/notes.txt"])


def test_a_folder_that_cannot_be_read_is_refused_unless_hidden(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name in (".private", "shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (folder / "a" / ".private").mkdir()
    pack(parse_config(values()), folder.parent / "p.zip", ["a"])
    (folder / "a" / "shut").mkdir()
    with pytest.raises(ConfigError, match="a/shut cannot be packaged: Permission denied"):
        pack(parse_config(values()), folder.parent / "q.zip", ["a"])
    with pytest.raises(ConfigError, match="a/shut cannot be packaged: Permission denied"):
        pack(parse_config(values()), folder.parent / "r.zip", ["a/shut"])


def test_evaluation_folders_and_places_in_the_home_travel_too(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "mine.jsonl").write_bytes(BUNDLED.read_bytes())
    (folder / "eval").mkdir()
    (folder / "eval" / "notes.md").write_text("none of the set")
    for name in ("x", "y"):
        (folder / "eval" / f"{name}.jsonl").write_text(f'{{"instruction": "Name {name}."}}\n')
    given = {"seeds": "~/mine.jsonl", "decontaminate": ["eval/", "~/eval/x.jsonl"]}
    package = pack(parse_config(values() | given), folder.parent / "p.zip", [])
    with zipfile.ZipFile(package.path) as archive:
        archive.extractall(folder / "job")
    monkeypatch.chdir(folder / "job")
    there = load_config(CONFIG_NAME)
    assert load_seeds(there.seeds) == load_seeds(str(BUNDLED))
    found = [(one.name, sorted(one.texts)) for one in load_sets(there.decontaminate)]
    assert found == [
        (one.name, sorted(one.texts))
        for one in load_sets([str(folder / "eval"), str(folder / "eval" / "x.jsonl")])
    ]
    assert not any("notes.md" in name for name in names(package))


def test_a_huge_file_is_refused_before_all_of_it_is_packed(folder):
    """Over 2 GiB, a zip takes it in a form of its own only."""
    with (folder / "a" / "huge.bin").open("wb") as file:
        file.write(os.urandom(3 << 20))
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"over the 2 MiB .* largest: a/huge\.bin"):
        pack(parse_config(values()), folder.parent / "p.zip", ["a"], limit=2 << 20)
    assert (folder.parent / "p.zip").stat().st_size < 4 << 20


def test_the_same_files_make_the_same_package(folder):
    first = pack(parse_config(values()), folder.parent / "p.zip", ["a"]).path.read_bytes()
    os.utime("a/mine.py", (0, 0))
    assert pack(parse_config(values()), folder.parent / "q.zip", ["a"]).path.read_bytes() == first


def test_a_package_over_the_limit_is_refused_with_its_largest_files(folder):
    (folder / "a" / "large.bin").write_bytes(os.urandom(3 << 20))
    with pytest.raises(ConfigError, match=r"over the 2 MiB .* largest: a/large\.bin \(3\.0 MiB\)"):
        pack(parse_config(values()), folder.parent / "p.zip", ["a"], limit=2 << 20)
    assert LIMIT == 100 << 20


@pytest.mark.parametrize(
    ("item", "message"), [("absent.txt", "--include absent.txt: there is no such file or folder")]
)
def test_what_is_not_there_is_refused(folder, item, message):
    with pytest.raises(ConfigError, match=message):
        pack(parse_config(values()), folder.parent / "p.zip", [item])


@pytest.mark.parametrize("model", ["./weights", "weights"])
def test_a_model_in_a_folder_of_this_machine_only_is_refused(folder, model):
    (folder / "weights").mkdir()
    generator = {"engine": "transformers", "model": model}
    adapted = {"engine": "vllm", "model": "Qwen/Qwen2.5-7B", "vllm": {"lora": model}}
    for given, key in ((generator, "generator.model"), (adapted, "generator.vllm.lora")):
        with pytest.raises(ConfigError, match=f"{key}: {model} is a folder on this machine"):
            pack(parse_config({"generator": given}), folder.parent / "p.zip", [])


def test_ray_job_submit_from_a_checkout_sends_little(tmp_path):
    """By Ray's own packaging, which obeys .gitignore and .rayignore."""
    from ray._private.runtime_env.packaging import create_package

    path = tmp_path / "checkout.zip"
    create_package(str(ROOT), path, include_gitignore=True)
    with zipfile.ZipFile(path) as archive:
        found = archive.namelist()
    tops = {name.partition("/")[0] for name in found}
    assert {"ray_si", "jobs", "configs", "pyproject.toml"} <= tops
    assert not tops & {".git", ".github", ".venv", "runs", "data"}
    assert not tops & {"tests", "benchmarks", "cluster", "docs", "examples"}
    assert path.stat().st_size < 4 << 20
