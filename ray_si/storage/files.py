"""Single files, local or on S3: finding them, and writing them whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from pyarrow import fs

from ray_si.errors import CorpusError, one_line

_S3 = "s3://"

_AWS_ERRORS = {
    "ACCESS_DENIED": "access denied; check $AWS_ACCESS_KEY_ID, $AWS_SECRET_ACCESS_KEY or ~/.aws",
    "INVALID_ACCESS_KEY_ID": "S3 does not know this access key; check $AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "wrong secret key; check $AWS_SECRET_ACCESS_KEY",
    "NO_SUCH_BUCKET": "there is no such bucket",
    "NETWORK_CONNECTION": "S3 could not be reached; check the network and $AWS_ENDPOINT_URL",
}
"""What pyarrow calls an S3 failure -> what to say of it."""


@dataclass(frozen=True)
class File:
    """A file that may or may not exist.

    ``location`` is what the user wrote, ``path`` the same within ``filesystem``: links resolved, or
    "bucket/key".
    """

    location: str
    filesystem: fs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        """Whether it lies in a folder of this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def is_same(self, other: File) -> bool:
        """Whether both name the same place."""
        return self.is_local == other.is_local and self.path == other.path

    def size(self) -> int:
        """Bytes; CorpusError where there is no such file, or it is a folder."""
        with reading(self.location):
            info = self.filesystem.get_file_info(self.path)
        if info.type == fs.FileType.NotFound:
            self._check_bucket()
            raise CorpusError(f"there is no file {self.location}")
        if info.type == fs.FileType.Directory:
            raise CorpusError(f"{self.location} is a folder; name the files in it")
        return int(info.size)

    def check_writable(self, overwrite: bool) -> None:
        """CorpusError unless a file can be put here; writes nothing.

        On S3 the bucket must be there; whether the credentials allow writing shows at the end.
        """
        with writing(self.location):
            found = self.filesystem.get_file_info(self.path).type
        if found == fs.FileType.Directory:
            raise CorpusError(f"{self.location} is a folder; name a file")
        if found != fs.FileType.NotFound and not overwrite:
            raise CorpusError(f"{self.location} exists; choose another name or add --overwrite")
        if not self.is_local:
            self._check_bucket()
            return
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise CorpusError(f"{self.location}: there is no folder {folder}; make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CorpusError(f"{self.location} cannot be written: no permission in {folder}")

    def _check_bucket(self) -> None:
        if self.is_local:
            return
        bucket = self.path.partition("/")[0]
        with reading(self.location):
            found = self.filesystem.get_file_info(bucket).type
        if found == fs.FileType.NotFound:
            raise CorpusError(f"{self.location}: there is no bucket {bucket}")


def locate(location: str) -> File:
    """The file at a local path or ``s3://bucket/key``.

    S3 takes credentials and region from where the AWS tools do ($AWS_ACCESS_KEY_ID, $AWS_PROFILE,
    ~/.aws ...) and another endpoint from $AWS_ENDPOINT_URL alone. Raises CorpusError for other
    schemes, and where S3 cannot be reached.
    """
    if location.startswith(_S3):
        path = location.removeprefix(_S3)
        bucket, _, key = path.partition("/")
        if not bucket or not key or key.endswith("/"):
            raise CorpusError(f"{location}: write s3://bucket/path/to/file")
        with reading(location):
            filesystem, _ = fs.FileSystem.from_uri(_S3 + bucket)
        return File(location, filesystem, path)
    if "://" in location:
        raise CorpusError(f"{location}: only local files and s3:// are supported")
    return File(location, fs.LocalFileSystem(), os.path.realpath(os.path.expanduser(location)))


@contextmanager
def staged(*targets: File) -> Iterator[list[str]]:
    """Local paths to write instead of the targets, which appear when the block ends well.

    After an error or an interrupt no target is there and no temporary file is left. Local targets
    are synced to disk and renamed into place. S3 targets are uploaded in one go at the end, since
    pyarrow cannot abandon an upload it has begun (apache/arrow#40502).
    """
    with TemporaryDirectory() as scratch:
        paths = [_temporary(target, scratch) for target in targets]
        try:
            yield paths
            _publish(list(zip(paths, targets, strict=True)))
        finally:
            for path in paths:
                Path(path).unlink(missing_ok=True)


def _publish(staged_files: list[tuple[str, File]]) -> None:
    published: list[File] = []
    try:
        for path, target in staged_files:
            published.append(target)
            try:
                with writing(target.location):
                    _put(path, target)
            except CorpusError:
                published.pop()  # what stood there before still does
                raise
    except BaseException:
        for target in published:
            _remove(target)
        raise


def _temporary(target: File, scratch: str) -> str:
    folder, name = os.path.split(target.path)
    token = secrets.token_hex(6)
    return os.path.join(folder if target.is_local else scratch, f".tmp-{token}-{name}")


def _put(path: str, target: File) -> None:
    if target.is_local:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(path, target.path)
    else:
        local = fs.LocalFileSystem()
        # in one call, so that Ctrl-C takes effect only when the object is whole
        fs.copy_files(path, target.path, local, target.filesystem, use_threads=False)


def _remove(target: File) -> None:
    with writing(target.location):
        if target.filesystem.get_file_info(target.path).type == fs.FileType.File:
            target.filesystem.delete_file(target.path)


@contextmanager
def reading(location: str) -> Iterator[None]:
    """Turns what pyarrow raises while a file is read into a CorpusError of one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"cannot read {location}: {_reason(error)}") from error


@contextmanager
def writing(location: str) -> Iterator[None]:
    """Turns what pyarrow raises while a file is written into a CorpusError of one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"cannot write {location}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = one_line(error)
    aws = re.search(r"AWS Error ([A-Z_]+)", text)
    if aws:
        return _AWS_ERRORS.get(aws[1], text)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return text
