"""The exact cosine index."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from ray_si.dedup.cosine import file
from ray_si.dedup.cosine.device import DeviceRows
from ray_si.dedup.cosine.host import HostRows

if TYPE_CHECKING:
    import torch


class CosineIndex:
    """Finds, for each query, the embedding with the highest cosine above a threshold.

    Exact: scores, ids and whether there is one equal those of comparing with every row, one by one,
    in double precision (`ray_si.dedup.cosine.scalar`), however rows and queries come in batches and
    whatever computes. What cannot be above the threshold is passed over by products that bound the
    cosine from above (`ray_si.dedup.cosine.codes`); zero rows have a cosine of 0 with everything.

    In memory are codes, dimension + 76 bytes a row. The rows themselves stand in a temporary file
    without a name, in ``folder`` (default: the system's), but for the last 16,384 at most. Not for
    several threads at once; `search` uses ``threads`` of its own (default: the cores this process
    may use). ``model`` names what made the embeddings, for `load` to compare.

    With ``device`` "cuda" or "cuda:N" everything stands in that GPU's memory and is searched there,
    with torch: 6 bytes a number of a row, room for as many rows again (at most 524,288), and about
    2 GB while it searches. Embeddings may be tensors then, and large batches are the fastest. Where
    the GPU has no room, a MemoryError; the first ``len(self)`` rows are in then.

    Raises ValueError for a threshold outside (0, 1] and for a device that torch does not see.
    """

    def __init__(
        self,
        dimension: int,
        threshold: float = 0.9,
        *,
        model: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
        self.dimension, self.threshold, self.model = dimension, threshold, model
        self._rows: HostRows | DeviceRows
        if device == "cpu":
            self._rows = HostRows(dimension, folder, threads)
        else:
            self._rows = DeviceRows(dimension, device)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes; on a device, of all that is kept of the rows."""
        return self._rows.nbytes

    def add(self, embeddings: np.ndarray | torch.Tensor) -> None:
        """Append rows, shape (n, dimension), scaled to length 1; ids go on from ``len(self)``.

        Raises ValueError for another width, NaN or infinity; nothing is added then. RowsFileError,
        an OSError, where the file of rows cannot grow; the first ``len(self)`` rows are in then.
        """
        self._rows.add(embeddings)

    def search(
        self, embeddings: np.ndarray | torch.Tensor, threshold: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best match of each row above the threshold, the earliest of equals.

        Returns cosines (float64, 0 where there is none) and ids (int64, -1), both of shape (n,).
        ``threshold`` replaces the index's own, say a higher one. Raises ValueError for another
        width, NaN or infinity.
        """
        above = self.threshold if threshold is None else threshold
        cosines, ids = self._rows.search(embeddings, above)
        return np.where(ids < 0, 0.0, cosines), ids

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, atomically. OSError where that cannot be done."""
        header = {
            "dimension": self.dimension,
            "threshold": self.threshold,
            "model": self.model,
            "rows": len(self),
        }
        file.save(path, header, self._rows.parts())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        dimension: int | None = None,
        threshold: float | None = None,
        model: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> CosineIndex:
        """Read what `save` wrote, whatever device it was on; the codes are made anew.

        Raises ValueError where the file is damaged, is no index, or was made for another dimension,
        threshold or model than the one named; OSError where it cannot be read.
        """
        with file.opened(path) as (header, parts):
            for name, wanted in (
                ("dimension", dimension),
                ("threshold", threshold),
                ("model", model),
            ):
                if wanted is not None and header[name] != wanted:
                    raise ValueError(f"{path} was made for {name} {header[name]}, not {wanted}")
            index = cls(
                header["dimension"],
                header["threshold"],
                model=header["model"],
                folder=folder,
                threads=threads,
                device=device,
            )
            for rows in parts:
                index.add(rows)
        return index
