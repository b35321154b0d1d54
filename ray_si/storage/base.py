"""What a store of named bytes does, and which names it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from ray_si.errors import StorageError

TEMPORARY = ".tmp-"
"""How the names of writes in progress begin; no key has such a part."""


class Objects(Protocol):
    """A flat store of named bytes.

    Names use "/" between parts; one that could lead out of the store (see `check_key`) is refused.
    Every method raises StorageError for what the user can mend, and StorageLostError where storage
    that worked fails for good, after every retry. Instances pickle; they hold no connection.
    """

    def check(self, *, write: bool) -> None:
        """Raise StorageError unless the store answers and, with ``write``, takes objects.

        Less patient than the other methods, and leaves nothing behind.
        """

    def get(self, key: str) -> bytes:
        """The bytes of a key; KeyError where there is none."""

    def put(self, key: str, data: bytes | BinaryIO) -> None:
        """Write or replace a key, durably; readers see all of it or none.

        A stream is read from where it stands to its end, and may come back closed.
        """

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a key unless it exists, atomically and durably; whether this call wrote it."""

    def adopt(self, key: str, path: str) -> None:
        """`put` of a local file, best one in `scratch`; the file may be gone then."""

    def scratch(self) -> AbstractContextManager[Path]:
        """A local folder for the time of a ``with`` block, from which `adopt` is cheap.

        Those that killed processes left on this machine are removed.
        """

    def move(self, source: str, target: str) -> None:
        """Give an object another name, in place of what has that name."""

    def tidied(self) -> AbstractContextManager[None]:
        """Remove folders made in the time of a ``with`` block in which nothing is at its end."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Every key that begins with ``prefix``, sorted, as they are needed."""

    def temporaries(self) -> Iterator[str]:
        """What writes in progress, or cut short, have left; no keys, and never listed as such."""

    def delete(self, key: str) -> None:
        """Remove a key if it exists."""

    def sweep(self) -> None:
        """Remove what interrupted writes left behind; for the only writer there is."""


def absolute(location: str) -> str:
    """The location as every process means it, whatever its working directory."""
    return location if "://" in location else str(Path(os.path.expanduser(location)).absolute())


def check_key(key: str) -> str:
    """The key, unless it could lead out of its store or clash with a temporary file.

    Raises StorageError for parts that are empty, "." or "..", so for absolute names too, and for
    backslashes and characters that do not print.
    """
    for part in key.split("/"):
        if part in ("", ".", "..") or part.startswith(TEMPORARY):
            raise StorageError(f"{key!r} cannot be the name of an object: it has a part {part!r}")
    if "\\" in key or not key.isprintable():
        raise StorageError(f"{key!r} cannot be the name of an object: a character is not allowed")
    return key
