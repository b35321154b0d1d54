"""Rows of a cosine index in the memory of a GPU, searched there with torch.

A search has three steps. Products of half-precision copies say within a margin what all cosines are
(`ray_si.dedup.cosine.codes`, "Half precision"), and of 32 rows and a query only the largest stays.
Where it may be above the threshold, and a query's nearest by what was seen so far, the 32 are
multiplied again, each for itself. The few pairs left are decided by sums in order and in double
precision, which are the same, bit for bit, on any device. It needs torch and NumPy alone, and runs
on a processor too, for tests.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

GROUP = 32
"""Rows of which only the largest product is looked at first."""

QUERIES = 16_384
"""Queries searched at a time."""

PRODUCTS = 1 << 27
"""Products in memory at a time, 2 bytes each."""

_SMALLEST, _LARGEST = 1 << 14, 1 << 19
"""Rows that memory is taken for at a time: as many as there are, within these limits."""

_HITS = 1 << 14
"""Groups looked into at a time: bounds the copies of their rows."""

_PAIRS = 1 << 17
"""Pairs decided at a time."""

_MULTIPLE = 8
"""Matrix products are fast where their sides are multiples of it."""

_UNIT = 1e-6
"""As in `ray_si.dedup.cosine.scalar`: rows this near to length 1 are kept as they are."""

_NO_ID = np.iinfo(np.int64).max

_NO_ROOM = "out of memory", "can't allocate memory", "ALLOC_FAILED"
"""Words of torch's errors, of several types, where a device's memory does not suffice."""


class NoDeviceError(ValueError):
    """A device that torch does not see here."""


class DeviceMemoryError(MemoryError):
    """A device has no room for more."""


def bytes_of_a_row(dimension: int) -> int:
    """What a row and its copy in half precision take."""
    return 4 * dimension + 2 * _padded(dimension)


def bytes_of_a_search(dimension: int) -> int:
    """What a search takes beside the rows, about: 2 GB for 384 numbers, and more for wider ones."""
    return 2_000_000_000 * max(1, -(-dimension // 384))


def free_bytes(device: str) -> int:
    """Bytes of a device's memory that nobody has taken.

    Raises NoDeviceError, or DeviceMemoryError where there are none to ask with.
    """
    import torch

    seen = _seen(device)
    if seen.type == "cpu":
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with _told_of_room():
        return int(torch.cuda.mem_get_info(seen)[0])


def margin(dimension: int) -> float:
    """More than a product of half-precision copies differs from the cosine.

    See `ray_si.dedup.cosine.codes`, "Half precision".
    """
    rounding = 3 * 2.0**-11 + 2 * math.sqrt(dimension) * 2.0**-25
    summing = (dimension + 16) * 2.0**-21
    return 1.01 * (rounding + summing)


class DeviceRows:
    """Rows in the memory of a torch device, and the exact search among them.

    Raises ValueError for a device that is no CUDA device, NoDeviceError for one that torch does not
    see here; where it has no room, all that computes raises DeviceMemoryError.
    """

    def __init__(self, dimension: int, device: str) -> None:
        self.dimension = dimension
        self._device = _seen(device)
        self._blocks: list[_Block] = []

    def __len__(self) -> int:
        return sum(block.size for block in self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows and of their copies in half precision."""
        return len(self) * bytes_of_a_row(self.dimension)

    def add(self, embeddings: np.ndarray | torch.Tensor) -> None:
        """See `CosineIndex.add`; embeddings may be on the device already."""
        with self._computing():
            rows = self._normalized(embeddings)
            while len(rows):
                if not self._blocks or self._blocks[-1].room == 0:
                    self._begin_block()
                block = self._blocks[-1]
                part = rows[: block.room]
                block.rows[block.size : block.size + len(part)] = part
                block.halves[block.size : block.size + len(part), : self.dimension] = part
                self._blocks[-1] = block._replace(size=block.size + len(part))
                rows = rows[len(part) :]

    def search(
        self, embeddings: np.ndarray | torch.Tensor, threshold: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines, or the threshold where none is above it, and ids, or -1; both of shape (n,)."""
        import torch

        with self._computing():
            queries = self._normalized(embeddings)
            cosines = torch.full(
                (len(queries),), threshold, dtype=torch.float64, device=self._device
            )
            ids = torch.full((len(queries),), -1, dtype=torch.int64, device=self._device)
            undecided: list[_Pairs] = []
            for pairs in self._possible(queries, threshold):
                undecided.append(pairs)
                if sum(len(pairs.ids) for pairs in undecided) >= _PAIRS:
                    cosines, ids = _decide(queries, undecided, cosines, ids)
                    undecided = []
            if undecided:
                cosines, ids = _decide(queries, undecided, cosines, ids)
            return cosines.cpu().numpy(), ids.cpu().numpy()

    def parts(self) -> Iterator[np.ndarray]:
        """The rows as they were normalized, float32, in parts of shape (n, dimension)."""
        for block in self._blocks:
            for part in block.rows[: block.size].split(_SMALLEST):
                yield part.cpu().numpy()

    def _possible(self, queries: torch.Tensor, threshold: float) -> Iterator[_Pairs]:
        """Pairs of a query and a row that may be above the threshold, and the query's nearest.

        A row is not the nearest where its product is two margins less than another's.
        """
        import torch

        least = threshold - margin(self.dimension)
        for start in range(0, len(queries), QUERIES):
            some = queries[start : start + QUERIES]
            halves = self._zeros(-(-len(some) // _MULTIPLE) * _MULTIPLE, torch.float16)
            halves[: len(some), : self.dimension] = some
            limits = torch.full((len(some),), least, device=self._device)
            for block in self._blocks:
                largest = _largest_products(block, halves)[:, : len(some)]
                nearest = largest.amax(0).float() - 2 * margin(self.dimension)
                limits = torch.maximum(limits, nearest)
                hits = (largest >= limits).nonzero()
                for part in hits.split(_HITS) if len(hits) else ():
                    groups, asked = part.unbind(1)
                    rows = groups[:, None] * GROUP + torch.arange(GROUP, device=self._device)
                    products = torch.bmm(block.halves[rows], halves[asked][:, :, None])[:, :, 0]
                    possible = (products >= limits[asked, None]) & (rows < block.size)
                    hit, within = possible.nonzero().unbind(1)
                    found = rows[hit, within]
                    yield _Pairs(start + asked[hit], block.first_id + found, block.rows[found])

    def _begin_block(self) -> None:
        import torch

        size = min(max(len(self), _SMALLEST), _LARGEST)
        rows = torch.empty((size, self.dimension), dtype=torch.float32, device=self._device)
        self._blocks.append(_Block(rows, self._zeros(size, torch.float16), len(self), 0))

    def _zeros(self, rows: int, dtype: torch.dtype) -> torch.Tensor:
        import torch

        shape = (rows, _padded(self.dimension))
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def _normalized(self, embeddings: np.ndarray | torch.Tensor) -> torch.Tensor:
        """`ray_si.dedup.cosine.scalar.normalized` on the device, to the last bit."""
        import torch

        if not isinstance(embeddings, torch.Tensor):
            embeddings = torch.from_numpy(np.require(embeddings, np.float32, ["C", "W"]))
        rows = embeddings.detach().to(self._device, torch.float32)
        if rows.ndim != 2:
            raise ValueError(f"embeddings have the shape {tuple(rows.shape)}, not (n, dimension)")
        totals = _sums_in_order(rows, rows)
        unusable = (~totals.isfinite()).nonzero()
        if len(unusable):
            raise ValueError(f"the embedding of row {int(unusable[0])} holds NaN or infinity")
        if rows.shape[1] != self.dimension:
            raise ValueError(
                f"embeddings have {rows.shape[1]} numbers, the index has {self.dimension}"
            )
        lengths = totals.sqrt()
        lengths[(totals == 0) | ((lengths - 1).abs() < _UNIT)] = 1
        scaled = [
            (part.double() / length[:, None]).float()
            for part, length in zip(rows.split(_PAIRS), lengths.split(_PAIRS), strict=True)
        ]
        return torch.cat(scaled)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Products of half precision that are summed in single, whatever else was asked of torch.

        Its settings are the process's own; those that loosen sums are off meanwhile.
        """
        import torch

        matmul, split = torch.backends.cuda.matmul, "_split_k"
        before = {}
        for name in ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation"):
            if getattr(matmul, name, False):
                more = [getattr(matmul, name + split)] if hasattr(matmul, name + split) else []
                before[name] = (True, *more) if more else True
                setattr(matmul, name, False)
        try:
            with (
                _told_of_room(),
                torch.no_grad(),
                torch.autocast(self._device.type, enabled=False),
            ):
                yield
        finally:
            for name, value in before.items():
                setattr(matmul, name, value)


class _Block(NamedTuple):
    """Memory for rows with consecutive ids, of which the first ``size`` are there.

    ``rows`` is float32, shape (capacity, dimension); ``halves``, float16, holds the same, and zeros
    beyond the size and the dimension.
    """

    rows: torch.Tensor
    halves: torch.Tensor
    first_id: int
    size: int

    @property
    def room(self) -> int:
        return len(self.rows) - self.size


class _Pairs(NamedTuple):
    """Queries by their indices, int64, rows by their ids, int64, and these rows, float32."""

    queries: torch.Tensor
    ids: torch.Tensor
    rows: torch.Tensor


def _seen(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    count = torch.cuda.device_count()
    if device is None or device.type not in ("cuda", "cpu"):
        raise ValueError(f"device must be cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise NoDeviceError(f"there is no device {name}: torch sees {count} CUDA devices here")
    return device


@contextmanager
def _told_of_room() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_ROOM):
            raise
        raise DeviceMemoryError(str(error).partition("\n")[0]) from error


def _padded(dimension: int) -> int:
    return -(-dimension // _MULTIPLE) * _MULTIPLE


def _largest_products(block: _Block, queries: torch.Tensor) -> torch.Tensor:
    """Of each group of rows with each query, float16, shape (groups, n)."""
    import torch

    groups = -(-block.size // GROUP)
    largest = torch.empty((groups, len(queries)), dtype=torch.float16, device=queries.device)
    step = max(1, PRODUCTS // len(queries) // GROUP)
    for first in range(0, groups, step):
        last = min(first + step, groups)
        products = block.halves[first * GROUP : last * GROUP] @ queries.T
        torch.amax(products.view(last - first, GROUP, -1), dim=1, out=largest[first:last])
    return largest


def _sums_in_order(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Sums of the products of rows, in order and in double precision, shape (n,).

    A product is exact, so whether it is fused with the sum changes nothing.
    """
    import torch

    sums = torch.zeros(len(left), dtype=torch.float64, device=left.device)
    for start in range(0, len(left), _PAIRS):
        part = slice(start, start + _PAIRS)
        # turned, so that each column is in one piece of memory
        columns = left[part].T.contiguous().double()
        others = columns if right is left else right[part].T.contiguous().double()
        total = sums[part]
        for column, other in zip(columns.unbind(), others.unbind(), strict=True):
            total.addcmul_(column, other)
    return sums


def _decide(
    queries: torch.Tensor, pairs: list[_Pairs], cosines: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of these pairs and of what was found before, the earliest of equals."""
    import torch

    of, row_ids, rows = (torch.cat(part) for part in zip(*pairs, strict=True))
    exact = _sums_in_order(queries[of], rows).clamp(-1, 1)
    best = cosines.scatter_reduce(0, of, exact, "amax")
    earliest = torch.full_like(ids, _NO_ID).scatter_reduce(
        0, of, torch.where(exact == best[of], row_ids, _NO_ID), "amin"
    )
    return best, torch.where(best > cosines, earliest, ids)
