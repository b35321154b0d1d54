"""Both kinds of storage."""

from __future__ import annotations

import uuid

import pytest


@pytest.fixture(params=["folder", "s3"])
def location(request, tmp_path):
    """A place where nothing is yet, in a folder or on a real S3 server."""
    if request.param == "folder":
        return str(tmp_path / "store")
    request.getfixturevalue("s3_environment")
    return f"s3://runs/{uuid.uuid4().hex}/run"
