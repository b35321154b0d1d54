"""Models that lie in a bucket: copied once to each node that needs them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from ray_si.engines.bundled import cache_folder
from ray_si.errors import EngineError

SCHEMES = ("s3://", "gs://")
"""What the address of a bucket begins with."""

_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".gguf")
"""The same weights in formats that nobody reads where there are safetensors."""

INDEX = "model.safetensors.index.json"
"""Which file has which weight, where a model's are several."""

_SMALL = 64 << 20
"""Bytes up to which a file other than weights is fetched to look at a model."""


def is_remote(model: str) -> bool:
    """Whether a model's name is an address in a bucket."""
    return model.startswith(SCHEMES)


def local_copy(address: str) -> str:
    """The folder on this node that has the files of a model or adapter in a bucket.

    The first process to ask copies them, under a lock that the others wait for, into the cache
    ($RAY_SI_CACHE, else ~/.cache/ray_si); what changed in the bucket is copied anew, beside. What a
    process that was killed had copied is removed. Raises EngineError where the bucket cannot be
    read or has no such model.
    """
    system, files = _files(address)
    return str(_copy(address, system, files, "whole"))


def glance(address: str) -> Path:
    """A folder with the model's small files: its configuration and tokenizer, no weights."""
    system, files = _files(address)
    small = [f for f in files if f.size <= _SMALL and not f.path.endswith(".safetensors")]
    return _copy(address, system, small, "glance")


def weight_files(address: str) -> tuple[FileSystem, list[str]]:
    """Where the safetensors of a model in a bucket are that an engine loads."""
    system, files = _files(address)
    paths = {info.base_name: info.path for info in files}
    index = None
    if INDEX in paths:
        with _one_line(address), system.open_input_file(paths[INDEX]) as file:
            index = file.read().decode(errors="replace")
    return system, [paths[name] for name in loaded(paths, index)]


def loaded(names: Iterable[str], index: str | None) -> list[str]:
    """Of a folder's files the safetensors that an engine loads, where it has two copies of them.

    ``index`` is the text of the file `INDEX`, None where there is none. Raises EngineError where
    that is damaged.
    """
    names = sorted(name for name in names if name.endswith(".safetensors"))
    if index is not None:
        try:
            in_index = set(json.loads(index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineError(f"{INDEX} is damaged; copy it again") from error
        return [name for name in names if name in in_index]
    return [name for name in names if name.startswith("model")] or names


def _files(address: str) -> tuple[FileSystem, list[FileInfo]]:
    """The files right below an address that an engine reads."""
    with _one_line(address):
        system, root = FileSystem.from_uri(address.rstrip("/"))
        listing = system.get_file_info(FileSelector(root, allow_not_found=True))
    files = [info for info in listing if info.type == FileType.File]
    names = {info.base_name for info in files}
    if not names & {"config.json", "adapter_config.json"}:
        raise EngineError(
            f"there is no model at {address}: it has no config.json (an adapter: "
            "adapter_config.json)"
        )
    if any(name.endswith(".safetensors") for name in names):
        files = [info for info in files if not info.path.endswith(_OTHER_WEIGHTS)]
    return system, sorted(files, key=lambda info: str(info.path))


def _copy(address: str, system: FileSystem, files: list[FileInfo], kind: str) -> Path:
    state = repr([(f.base_name, f.size, f.mtime_ns) for f in files])
    names = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in (address, state)]
    folder = cache_folder() / "models" / f"{kind}-{'-'.join(names)}"
    with _one_line(address):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            if folder.is_dir():
                return folder
            prefix = f".copying-{folder.name}-"
            for left in folder.parent.glob(f"{prefix}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix))
            local = LocalFileSystem()
            try:
                for info in files:
                    copy_files(info.path, str(temporary / info.base_name), system, local)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this node; the lock of one that dies is free again."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ArrowException) as error:
        reason: Any = " ".join(str(error).split())
        raise EngineError(
            f"the model at {address} cannot be copied to this node: {reason}; each node needs its "
            "own access to the bucket, and room in $RAY_SI_CACHE"
        ) from error
