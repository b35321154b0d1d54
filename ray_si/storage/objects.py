"""A location -> the store of named bytes that is there."""

from __future__ import annotations

from ray_si.errors import StorageError
from ray_si.storage.base import Objects, absolute
from ray_si.storage.local import LocalObjects

_S3 = "s3://"


def open_objects(location: str) -> Objects:
    """The store at a folder or ``s3://bucket/prefix``. Touches nothing; StorageError for others."""
    if location.startswith(_S3):
        from ray_si.storage.s3 import S3Objects

        return S3Objects(location)
    if "://" in location:
        raise StorageError(f"{location}: only folders and s3:// are supported")
    return LocalObjects(absolute(location))
