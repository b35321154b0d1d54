"""Named bytes under a prefix of a bucket, on Amazon S3 or anything that speaks its language.

Endpoint, region, credentials and addressing come from where boto3 looks for them: the environment
(AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION, AWS_PROFILE ...), ~/.aws, the machine's role. With an
endpoint, addresses are path style unless ~/.aws/config says otherwise.

Throttling, server errors, timeouts and cut connections are waited out here, request by request, so
that of an upload only the part is sent again that failed. botocore would do so too, but its threads
share a quota of retries, some thirty failed answers in all, and an outage of seconds uses it up.
botocore sends a checksum with every write, which the store verifies, and verifies the one that the
store sends with an object.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError, FlexibleChecksumError
from botocore.parsers import ResponseParserError

from ray_si.errors import StorageError, one_line
from ray_si.storage.base import check_key
from ray_si.storage.reading import read_ahead
from ray_si.storage.s3_errors import SILENCE, error_code, passes, translated
from ray_si.storage.scratch import scratch_folder

_ATTEMPTS = 12
"""Tries of a request: a minute of pauses on average, before the store counts as lost."""
_CHECK_ATTEMPTS = 7
"""Tries of a request of `S3Objects.check`: some eight seconds of pauses on average."""
_TIMEOUT_S = 60.0
"""Seconds of silence after which a request is tried again."""
_LARGE = 16 << 20
"""Bytes of a part; larger objects than this are uploaded in parts, several at a time."""
_MOST_AT_ONCE = 4 << 30
"""Bytes beyond which an object cannot be written in one request; S3 itself takes 5 GiB."""
_UPLOADERS = 4
"""Parts of an object that are uploaded at a time."""
_CONNECTIONS = 128
"""Most that are kept for later, which are made as they are needed.

A driver reads with 16 threads for each round in flight and for the instances, a worker with its own
and those of its loop; of what is beyond this, urllib3 warns and each needs a handshake.
"""
_LONGEST_PAUSE_S = 20.0

_EXISTS = "PreconditionFailed", "412"
_RACED = "ConditionalRequestConflict", "OperationAborted", "409"
"""Another write or delete of the key was under way: whether it exists now is open."""
_UNKNOWN = "NotImplemented", "501"
_NO_UPLOAD = "NoSuchUpload"
"""Completing or aborting an upload worked, but the answer was lost and the question repeated."""

T = TypeVar("T")


class _AgainError(Exception):
    """Raised in an operation that is worth another try after ``error``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class S3Objects:
    """Objects under ``s3://bucket/prefix``; see `ray_si.storage.base.Objects` for the methods.

    ``timeout_s`` is the silence in seconds that is waited for. A process makes its connections when
    it first needs them.
    """

    def __init__(self, location: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self.bucket, _, prefix = location.removeprefix("s3://").rstrip("/").partition("/")
        if not self.bucket:
            raise StorageError(f"{location} names no bucket: write s3://bucket/prefix")
        self.prefix = check_key(prefix) + "/" if prefix else ""
        self._location = f"s3://{self.bucket}/{prefix}".rstrip("/")
        self._timeout_s = timeout_s

    def check(self, *, write: bool) -> None:
        """Raise StorageError unless the bucket answers and, with ``write``, takes objects.

        Writing is tried with an upload that is begun and taken back, so that no object appears.
        """
        with translated(self._location, lost=StorageError):
            client = _client(_CHECK_ATTEMPTS, self._timeout_s / 4)
            client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
            if write:
                name = self.prefix + "write-check"
                upload = client.create_multipart_upload(Bucket=self.bucket, Key=name)
                if "UploadId" in upload:  # else the answer was cut short, and `sweep` finds it
                    self._take_back(client, name, upload["UploadId"])

    def get(self, key: str) -> bytes:
        name = self._name(key)

        def fetch(client: Any) -> bytes:
            try:
                answer = client.get_object(**name)
            except client.exceptions.NoSuchKey as error:
                raise KeyError(key) from error
            except ClientError as error:
                if error_code(error) == "404":  # cut before it said of what
                    raise _AgainError(error) from error
                raise
            try:
                data: bytes = answer["Body"].read()
            except (*SILENCE, FlexibleChecksumError) as error:
                raise _AgainError(error) from error
            return data

        return self._persist(key, fetch)

    def put(self, key: str, data: bytes | BinaryIO) -> None:
        name = self._name(key)

        def store(client: Any) -> None:
            if isinstance(data, bytes) and len(data) <= _LARGE:
                client.put_object(**name, Body=data)
            else:
                self._upload(client, name, data)

        self._persist(key, store)

    def adopt(self, key: str, path: str) -> None:
        with open(path, "rb") as stream:
            self.put(key, stream)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with scratch_folder(Path(tempfile.gettempdir()), "ray-si-scratch-") as folder:
            yield folder

    def move(self, source: str, target: str) -> None:
        old, new = self._name(source), self._name(target)

        def copy(client: Any) -> None:
            with _repeatable():
                client.copy(old, new["Bucket"], new["Key"])

        self._persist(target, copy)
        self.delete(source)

    def tidied(self) -> AbstractContextManager[None]:
        return nullcontext()  # there are no folders

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a key unless it exists, which one request decides: the only one, or the last.

        When the answer to a write is lost, the repeated request meets the object that the first
        one wrote. So each call leaves a mark of its own with the object, and looks for it there.
        """
        name = self._name(key)
        mark = uuid.uuid4().hex

        def store(client: Any) -> bool:
            try:
                if len(data) > _MOST_AT_ONCE:
                    self._upload_if_absent(client, name, data, mark)
                else:
                    client.put_object(**name, Body=data, IfNoneMatch="*", Metadata={"writer": mark})
            except ClientError as error:
                code = error_code(error)
                if code in _EXISTS or code == _NO_UPLOAD:
                    return _writer(client, name) == mark
                if code in _RACED:
                    raise _AgainError(error) from error
                if code in _UNKNOWN:
                    raise StorageError(
                        f"{self._location}: this store refuses conditional writes "
                        "(If-None-Match), which a run needs; use one that has them (it says: "
                        f"{one_line(error, 300)}; where that is of checksums, "
                        "AWS_REQUEST_CHECKSUM_CALCULATION=when_required leaves these out)"
                    ) from error
                raise
            return True

        return self._persist(key, store)

    def list(self, prefix: str = "") -> Iterator[str]:
        check_key(prefix + "x")
        place: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self.prefix + prefix}
        more = True
        while more:

            def fetch(client: Any) -> dict[str, Any]:
                page: dict[str, Any] = client.list_objects_v2(**place)
                if "IsTruncated" not in page:  # botocore takes an answer cut to nothing for one
                    raise _AgainError(ResponseParserError("a listing was cut short"))
                return page

            page = self._persist(prefix, fetch)
            for item in page.get("Contents", ()):
                key: str = item["Key"].removeprefix(self.prefix)
                if key and not key.endswith("/"):  # consoles mark folders like that
                    yield key
            more = page["IsTruncated"]
            place["ContinuationToken"] = page.get("NextContinuationToken")

    def delete(self, key: str) -> None:
        name = self._name(key)
        self._persist(key, lambda client: client.delete_object(**name))

    def temporaries(self) -> Iterator[str]:
        """Keys of uploads in parts that were begun and are not completed.

        None where asking is not allowed or not known; they are left to the bucket's own rules then.
        """
        with translated(self._location):
            for item in self._uploads(_client(_ATTEMPTS, self._timeout_s)):
                yield item["Key"].removeprefix(self.prefix)

    def sweep(self) -> None:
        """Take back what `temporaries` names."""
        with translated(self._location):
            client = _client(_ATTEMPTS, self._timeout_s)
            for item in self._uploads(client):
                self._take_back(client, item["Key"], item["UploadId"])

    def _uploads(self, client: Any) -> Sequence[dict[str, Any]]:
        pages = client.get_paginator("list_multipart_uploads")
        try:
            return [
                item
                for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix)
                for item in page.get("Uploads", ())
            ]
        except ClientError as error:
            if error_code(error) not in ("AccessDenied", *_UNKNOWN):
                raise
            return []

    def _take_back(self, client: Any, name: str, upload: str) -> None:
        try:
            client.abort_multipart_upload(Bucket=self.bucket, Key=name, UploadId=upload)
        except ClientError as error:
            if error_code(error) != _NO_UPLOAD:  # taken back, and the answer was lost
                raise

    def _name(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + check_key(key)}

    def _persist(self, key: str, operation: Callable[[Any], T]) -> T:
        """The operation's result, tried again while it raises _AgainError; errors translated."""
        with translated(f"{self._location}/{key}"):
            client = _client(_ATTEMPTS, self._timeout_s)
            for attempt in itertools.count(1):
                try:
                    return operation(client)
                except _AgainError as again:
                    if attempt == _ATTEMPTS:
                        raise again.error from None
                time.sleep(_pause_s(attempt))
            raise AssertionError("unreachable")

    @staticmethod
    def _upload(client: Any, name: dict[str, str], data: bytes | BinaryIO) -> None:
        """Upload in parts, with botocore's checksum for each."""
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        start = stream.tell()
        config = TransferConfig(
            multipart_threshold=_LARGE, multipart_chunksize=_LARGE, max_concurrency=_UPLOADERS
        )
        try:
            with _repeatable():
                client.upload_fileobj(stream, name["Bucket"], name["Key"], Config=config)
        except _AgainError:
            stream.seek(start)
            raise

    def _upload_if_absent(self, client: Any, name: dict[str, str], data: bytes, mark: str) -> None:
        """Upload in parts, which become an object in the end, unless there is one by then."""
        kind = {"ChecksumAlgorithm": "CRC32"}
        try:
            upload = client.create_multipart_upload(**name, **kind, Metadata={"writer": mark})
            place = name | {"UploadId": upload["UploadId"]}
        except KeyError as error:  # the answer was cut short
            raise _AgainError(error) from error

        def send(number: int) -> dict[str, Any]:
            piece = data[(number - 1) * _LARGE : number * _LARGE]
            sent = client.upload_part(**place, **kind, PartNumber=number, Body=piece)
            told = {key: sent[key] for key in ("ETag", "ChecksumCRC32") if key in sent}
            return {"PartNumber": number, **told}

        try:
            parts = list(read_ahead(send, range(1, -(-len(data) // _LARGE) + 1), _UPLOADERS))
            client.complete_multipart_upload(
                **place, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except ClientError:
            self._take_back(client, name["Key"], upload["UploadId"])
            raise


@contextmanager
def _repeatable() -> Iterator[None]:
    """Around a transfer in parts, which is done again where an answer to it was lost."""
    try:
        yield
    except KeyError as error:  # of an answer without an upload id
        raise _AgainError(error) from error
    except ClientError as error:
        if error_code(error) == _NO_UPLOAD:
            raise _AgainError(error) from error
        raise


def _writer(client: Any, name: dict[str, str]) -> str | None:
    """The mark of the call that wrote an object."""
    try:
        mark: str | None = client.head_object(**name)["Metadata"].get("writer")
    except ClientError as error:
        if error_code(error) in ("404", "NoSuchKey"):  # deleted meanwhile
            raise _AgainError(error) from error
        raise
    return mark


@lru_cache(maxsize=8)
def _client(attempts: int, timeout_s: float) -> Any:
    """This process's client, which its threads share."""
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},  # `_wait_out` has the patience
        connect_timeout=min(10.0, timeout_s),
        read_timeout=timeout_s,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
    )
    try:
        client = boto3.session.Session().client("s3", config=config)
    except ValueError as error:
        raise StorageError(
            f"S3 cannot be used: {one_line(error)}; check AWS_ENDPOINT_URL_S3 and "
            "AWS_DEFAULT_REGION"
        ) from error
    client.meta.events.register("needs-retry.s3", partial(_wait_out, tries=attempts))
    return client


def _wait_out(
    response: tuple[Any, dict[str, Any]] | None,
    attempts: int,
    caught_exception: Exception | None,
    tries: int,
    **_: object,
) -> float | None:
    """The seconds after which botocore sends a request again; None where it is not to.

    ``response`` is the answer, raw and read, to the try of number ``attempts``.
    """
    if attempts >= tries or not passes(response, caught_exception):
        return None
    told = response[0].headers.get("Retry-After", "") if response else ""
    return _pause_s(attempts) + (min(float(told), _LONGEST_PAUSE_S) if told.isdecimal() else 0.0)


def _pause_s(attempt: int) -> float:
    """How long to wait after so many tries; by chance, so that not all come back at once."""
    return random.uniform(0, min(_LONGEST_PAUSE_S, 2**attempt / 8))


os.register_at_fork(after_in_child=_client.cache_clear)  # a connection serves one process
