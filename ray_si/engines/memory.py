"""Whether a model's weights fit into memory, from the headers of their files."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ray_si.engines import remote
from ray_si.errors import EngineError

GIB = 1 << 30

_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the types that loading converts; all others (integers, 8-bit floats) stay as they are,
since a quantized model is made of them."""

_LONGEST_HEADER = 100 << 20
"""Bytes, as the format has it."""

_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container finds the bytes that it may use, or "max", of cgroups 2 and of cgroups 1."""


def cuda_cards() -> tuple[str | None, list[tuple[str, int]]]:
    """The CUDA that torch is built for, None for none, and each card's name and bytes of memory."""
    import torch

    cards = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    properties = map(torch.cuda.get_device_properties, cards)
    return torch.version.cuda, [(card.name, card.total_memory) for card in properties]


def check_memory(
    model: str, path: str, itemsize: int | None, have: int, *, revision: str | None = None
) -> None:
    """Raise EngineError where a model's weights alone exceed ``have`` bytes.

    ``itemsize`` is that of the type floats are converted to; None keeps them. ``path`` is what
    `resolve` returns, or an address in a bucket. A model whose files tell nothing passes.
    """
    need = weight_bytes(path, itemsize, revision=revision)
    if need is not None and need > have:
        raise EngineError(
            f"the weights of {model} take {need / GIB:.1f} GiB, and there are {have / GIB:.1f} GiB "
            "for them: spread it over more GPUs, or choose a smaller dtype, a quantized model or a "
            "smaller one"
        )


def free_memory(on_gpu: bool) -> int:
    """Bytes for a model: what this process's GPUs have free, or all that this machine has.

    In a container, all that it may use.
    """
    if on_gpu:
        import torch

        if gpus := torch.cuda.device_count():
            return sum(torch.cuda.mem_get_info(gpu)[0] for gpu in range(gpus))
    limits = [path.read_text().strip() for path in _LIMITS if path.is_file()]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(int(limit) for limit in limits if limit.isdigit())])


def weight_bytes(path: str, itemsize: int | None, *, revision: str | None = None) -> int | None:
    """Bytes of a model's weights in memory; None where there are no safetensors to read of.

    Reads the headers only, of a hub's files too.
    """
    if remote.is_remote(path):
        system, names = remote.weight_files(path)
        return _total((_header(system.open_input_file(name)) for name in names), itemsize)
    if Path(path).is_dir():
        return _total(headers_of(path), itemsize)
    return _total(_from_hub(path, revision), itemsize)


def headers_of(folder: str) -> Iterator[dict[str, Any]]:
    """The header of each safetensors file that an engine loads from a folder."""
    for path in _weights_in(Path(folder)):
        yield _header(path.open("rb"))


def _weights_in(folder: Path) -> list[Path]:
    index = folder / remote.INDEX
    text = index.read_text(encoding="utf-8") if index.is_file() else None
    return [folder / name for name in remote.loaded((p.name for p in folder.iterdir()), text)]


def _total(headers: Iterable[dict[str, Any]], itemsize: int | None) -> int | None:
    total = None
    for header in headers:
        total = total or 0
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            stored = _FLOATS.get(tensor["dtype"])
            if stored and itemsize:
                total += math.prod(tensor["shape"]) * itemsize
            else:
                begin, end = tensor["data_offsets"]
                total += end - begin
    return total


def _header(file: BinaryIO) -> dict[str, Any]:
    """Of a safetensors file: eight bytes of length, then JSON by the tensors' names."""
    with file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= _LONGEST_HEADER:
            raise EngineError("a file of the model's weights is no safetensors: copy it again")
        header: dict[str, Any] = json.loads(file.read(length))
    return header


def _from_hub(model: str, revision: str | None) -> Iterator[dict[str, Any]]:
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        repository = get_safetensors_metadata(model, revision=revision)
    except (NotASafetensorsRepoError, SafetensorsParsingError, OSError):
        return  # other weights, or no hub to ask: what is in the cache will say
    for file in repository.files_metadata.values():
        yield {
            name: {"dtype": t.dtype, "shape": t.shape, "data_offsets": t.data_offsets}
            for name, t in file.tensors.items()
        }
