"""Named bytes as files in a folder, written atomically."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from ray_si.errors import StorageError, StorageLostError
from ray_si.storage.base import TEMPORARY, check_key
from ray_si.storage.scratch import scratch_folder

T = TypeVar("T")

_LATER = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.EIO: "the disk fails",
    errno.ESTALE: "mount it again",
    errno.ETIMEDOUT: "the file server does not answer",
}
"""What can befall storage that was fine -> what to do; anything else is a wrong location."""


_NO_LINKS = errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV
"""What file systems without hard links answer when asked for one."""


_TRIES = 20
"""Times that a folder may be gone again before there is a file in it."""


class LocalObjects:
    """Objects as files under ``root``, a folder that is made when it is first written to.

    Files are synced before they take their name, and their folder after it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def check(self, *, write: bool) -> None:
        if not write:
            return
        with _translated(self.root):
            nearest = next(p for p in (self.root, *self.root.parents) if p.exists())
        if not nearest.is_dir():
            raise StorageError(f"{self.root} cannot be written: {nearest} is not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise StorageError(f"{self.root} cannot be written: no permission in {nearest}")

    def get(self, key: str) -> bytes:
        path = self.root / check_key(key)
        with _translated(path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise KeyError(key) from error

    def put(self, key: str, data: bytes | BinaryIO) -> None:
        path = self.root / check_key(key)
        with _translated(path), _written(path.parent, data) as temporary:
            os.replace(temporary, path)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self.root / check_key(key)
        with _translated(path), _written(path.parent, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return os.stat(temporary).st_nlink > 1  # a file server forgot to answer the first
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise StorageError(
                    f"{self.root} cannot hold a run: its file system has no hard links; choose "
                    "another place"
                ) from error
        return True

    def adopt(self, key: str, path: str) -> None:
        target = self.root / check_key(key)
        with _translated(target):
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
            _in_folder(target.parent, lambda: os.replace(path, target))
            _sync(target.parent)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with self.tidied():
            with _translated(self.root):
                _make(self.root)
            with scratch_folder(self.root, f"{TEMPORARY}scratch-") as folder:
                yield folder

    @contextmanager
    def tidied(self) -> Iterator[None]:
        with _translated(self.root):
            above = [path for path in (self.root, *self.root.parents) if not path.exists()]
            before = self._folders()
        try:
            yield
        finally:
            with suppress(OSError):
                made = sorted(self._folders() - before, reverse=True)
                for path in [*made, *above]:  # what lies deeper first
                    with suppress(OSError):  # something is in it
                        path.rmdir()

    def _folders(self) -> set[Path]:
        """Those directly in the root."""
        with suppress(FileNotFoundError, NotADirectoryError):  # gone in this moment, or no folder
            return {Path(entry.path) for entry in os.scandir(self.root) if entry.is_dir()}
        return set()

    def move(self, source: str, target: str) -> None:
        old, new = self.root / check_key(source), self.root / check_key(target)
        with _translated(new):
            _in_folder(new.parent, lambda: os.replace(old, new))
            _sync(new.parent)
            with suppress(OSError):  # where that was the last one
                old.parent.rmdir()

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = check_key(prefix + "x").rpartition("/")[0]
        yield from self._walk(folder + "/" if folder else "", prefix)

    def temporaries(self) -> Iterator[str]:
        for path in sorted(self.root.rglob(f"{TEMPORARY}*")):
            yield path.relative_to(self.root).as_posix()

    def delete(self, key: str) -> None:
        path = self.root / check_key(key)
        with _translated(path):
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY):
                    with _translated(self.root):
                        (Path(folder) / name).unlink(missing_ok=True)

    def _walk(self, folder: str, prefix: str) -> Iterator[str]:
        """The keys below a folder ("" or ending in "/"), in the order of the whole keys."""
        with _translated(self.root / folder):
            try:
                entries = list(os.scandir(self.root / folder))
            except FileNotFoundError:
                return
            keys = sorted(folder + entry.name + "/" * entry.is_dir() for entry in entries)
        for key in keys:
            if not key.startswith(prefix) or key.startswith(TEMPORARY, len(folder)):
                continue
            if key.endswith("/"):
                yield from self._walk(key, prefix)
            else:
                yield key


@contextmanager
def _written(folder: Path, data: bytes | BinaryIO) -> Iterator[str]:
    """Name of a synced file in the folder, to be renamed or linked; what is left is removed."""
    descriptor, name = _in_folder(folder, lambda: tempfile.mkstemp(prefix=TEMPORARY, dir=folder))
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if isinstance(data, bytes):
                stream.write(data)
            else:
                shutil.copyfileobj(data, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        yield name
        _sync(folder)
    finally:
        Path(name).unlink(missing_ok=True)


def _in_folder(folder: Path, place: Callable[[], T]) -> T:
    """What comes of placing a file in a folder, which is made where it is not there.

    Others may begin in the same place, see that it is not theirs, and tidy up: so until there is a
    file in it, the folder can go at any moment, and its parents with it.
    """
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            _make(folder)
            return place()
    _make(folder)
    return place()


def _make(folder: Path) -> None:
    """`mkdir -p` that outlasts a power cut."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """OSError as one of ours, with what to do."""
    try:
        yield
    except OSError as error:
        reason = f"{path} cannot be used: {error.strerror}"
        if error.errno in _LATER:
            raise StorageLostError(
                f"{reason}; {_LATER[error.errno]}, then the same command goes on"
            ) from error
        raise StorageError(f"{reason}; choose another place or mend its permissions") from error
