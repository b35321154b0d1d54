"""Local folders for the time of some work, which go even where the work was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent``, whose name begins with ``prefix``; it is removed at the end.

    Folders of that kind whose process has died are removed first, but for those of other users. A
    living one holds a lock on its folder, which ends with the process.
    """
    for path in parent.glob(f"{prefix}*"):
        if path.is_dir() and not path.is_symlink() and (lock := _locked(path, wait=False)):
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
    folder, lock = _new(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _new(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _locked(folder, wait=True)
        if lock is not None and folder.exists():  # else another process took it for a dead one's
            return folder, lock


def _locked(folder: Path, *, wait: bool) -> int | None:
    """A descriptor of the folder that holds its lock; None where it is somebody else's."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):  # removed in this moment; another user's
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
