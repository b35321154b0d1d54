"""A folder of results beside a run: a header says what they are of, and one process writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ray_si.errors import DamageError, RunError, StorageError
from ray_si.run.run import differences
from ray_si.storage.base import absolute
from ray_si.storage.lease import LEASES, Lease, check_exclusive
from ray_si.storage.objects import open_objects


def check_beside(to: str, run: str) -> None:
    """Raise RunError where ``to`` is the place of the run or lies inside it, by links too.

    The same for another run, see `check_outside`. All are folders or ``s3://bucket/prefix``; they
    need not exist.
    """
    inner, outer = (f"{_resolved(place).rstrip('/')}/" for place in (to, run))
    if inner.startswith(outer):
        raise _inside(to)
    check_outside(to)


def check_outside(to: str) -> None:
    """Raise RunError where ``to`` is the place of a run or lies inside one, as far as can be read.

    It is a folder or ``s3://bucket/prefix`` and need not exist.
    """
    place = _resolved(to).rstrip("/")
    parts, least = place.split("/"), 2 if "://" in place else 1  # below a bucket, or the root
    with suppress(StorageError):
        open_objects(place).check(write=False)
        if any(is_run("/".join(parts[:n])) for n in range(len(parts), least, -1)):
            raise _inside(to)


def is_run(place: str) -> bool:
    """Whether a run is there, as far as the place can be read."""
    with suppress(StorageError):
        return next(open_objects(place).list("run.json"), None) == "run.json"
    return False


class Folder:
    """Objects at ``location`` (a folder or ``s3://bucket/prefix``) under a header, ``header_key``.

    ``kind`` is what messages call it ("an evaluation", say). Ray's workers use it too, so the
    location is made absolute.
    """

    def __init__(self, location: str, header_key: str, kind: str) -> None:
        self.location = absolute(location)
        self.objects = open_objects(self.location)
        self._header_key, self._kind = header_key, kind
        self._lease: Lease | None = None

    @property
    def fencing(self) -> int:
        """Number of the lease that is held; 0 where none is."""
        return self._lease.number if self._lease else 0

    def check(self, identity: dict[str, Any]) -> None:
        """Raise RunError unless this can be begun or continued here; leaves nothing behind.

        The place may be missing, empty, or have a header of the same identity. Raises StorageError
        where it cannot be written.
        """
        self.objects.check(write=True)
        header = self.read_json(self._header_key)
        if header is None:
            if not all(key.startswith(LEASES) for key in self.objects.list()):
                raise RunError(
                    f"{self.location} is not empty and not {self._kind}; choose another --to"
                )
        elif header.get("identity") != identity:
            changed = ", ".join(differences(header.get("identity"), identity))
            raise RunError(
                f"{self.location} holds {self._kind} of something else (different: {changed}); "
                "choose another --to"
            )
        check_exclusive(self.objects, self.location)

    def claim(self, identity: dict[str, Any], more: dict[str, Any]) -> None:
        """`check`, and write the header unless it is there. Raises RunError."""
        self.check(identity)
        header = {"identity": identity, **more}
        if not self.objects.put_if_absent(self._header_key, _bytes(header)):
            self.check(identity)  # another process was first

    @contextmanager
    def held(self, notify: Callable[[str], None]) -> Iterator[None]:
        """Be the only one who writes here; see `Lease`."""
        with Lease(self.objects, self.location, notify=notify) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def check_lease(self) -> None:
        """Raise LeaseLostError where the place was held and another process has taken over."""
        if self._lease:
            self._lease.check()

    def read_json(self, key: str) -> dict[str, Any] | None:
        """An object of JSON, None where there is none; DamageError where it is not JSON."""
        try:
            data = self.objects.get(key)
        except KeyError:
            return None
        try:
            found = json.loads(data)
        except ValueError as error:
            raise DamageError(f"{self.location}/{key} is damaged: {error}") from error
        if not isinstance(found, dict):
            raise DamageError(f"{self.location}/{key} is damaged: it is not a JSON object")
        return found

    def write_json(self, key: str, value: dict[str, Any]) -> None:
        """`write` an object of JSON."""
        self.write(key, _bytes(value))

    def write(self, key: str, data: bytes) -> None:
        """Write or replace an object; raises what `check_lease` does."""
        self.check_lease()
        self.objects.put(key, data)

    def delete(self, key: str) -> None:
        """Remove an object if it is there; raises what `check_lease` does."""
        self.check_lease()
        self.objects.delete(key)


def _inside(to: str) -> RunError:
    return RunError(f"{to} is or lies inside a run, which stays as it was built; choose another")


def _resolved(place: str) -> str:
    return place if "://" in place else os.path.realpath(os.path.expanduser(place))


def _bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
