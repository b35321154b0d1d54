"""Named bytes in a folder, written atomically."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ray_si.errors import RunError

_TEMPORARY = ".tmp-"


class Objects(Protocol):
    """A flat store of named bytes; names use "/" and never begin with it."""

    def get(self, key: str) -> bytes:
        """The bytes of a key; KeyError where there is none."""

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a key; readers see all of it or none."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a key unless it exists, atomically; whether it was written."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Every key that begins with ``prefix``, sorted."""

    def delete(self, key: str) -> None:
        """Remove a key if it exists."""

    def sweep(self) -> None:
        """Remove what interrupted writes left behind; for the only writer there is."""


class LocalObjects:
    """Objects as files under ``root``; made durable (fsync) before they take their name."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def get(self, key: str) -> bytes:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError as error:
            raise KeyError(key) from error

    def put(self, key: str, data: bytes) -> None:
        os.replace(self._temporary(key, data), self.root / key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        temporary = self._temporary(key, data)
        try:
            os.link(temporary, self.root / key)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        keys = (path.relative_to(self.root).as_posix() for path in folder.rglob("*"))
        for key in sorted(keys):
            hidden = key.rpartition("/")[2].startswith(_TEMPORARY)
            if key.startswith(prefix) and not hidden and (self.root / key).is_file():
                yield key

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def sweep(self) -> None:
        for path in list(self.root.rglob(f"{_TEMPORARY}*")):
            path.unlink(missing_ok=True)

    def _temporary(self, key: str, data: bytes) -> str:
        folder = (self.root / key).parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        return name


def absolute(location: str) -> str:
    """The location as every process means it, whatever its working directory."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def open_objects(location: str) -> Objects:
    """The store at a location: a folder (s3:// is not supported yet). Touches nothing."""
    if "://" in location:
        raise RunError(f"{location}: only local and shared folders are supported so far")
    return LocalObjects(absolute(location))
