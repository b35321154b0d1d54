"""What lies in a run, read with suspicion: damage becomes a finding, never an exception."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ray_si.errors import StorageError, StorageLostError, one_line
from ray_si.run.instance_parts import PART, is_full, last_parts
from ray_si.run.layout import (
    INSTANCES,
    JOB,
    block_key,
    block_keys,
    block_number,
    round_folder,
    unfenced,
)
from ray_si.run.manifests import RoundManifest, Stats
from ray_si.run.run import Manifest, Run, seal
from ray_si.run.schemas import EMBEDDING, NULLABLE
from ray_si.storage.base import Objects
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import ShardInfo, from_parquet

LIMIT = 20
"""Findings that a check spells out; more are counted."""

_OF_HEADER = ("seeds.parquet", "decontaminate.parquet", "selection.parquet")
_OWN_KEYS = {"run.json", *_OF_HEADER, "stats.json", "instances/manifest.json"}
_DOCUMENTS = ("README.md", "report.html")
_LEASE = "lease/"
_SCORES = "scores/"
"""Of what was scored later, whose manifests `ray_si.audit.score_checks` looks at."""
_IN_ROUND = re.compile(r"bootstrap/round-(\d{5,})/(.+)")
_DECISIONS = ("accepted", "rejected")

_COUNTS = ("requests", "prompt_tokens", "completion_tokens", "candidates", "accepted")
_ROUND: dict[str, type] = dict.fromkeys(("round", *_COUNTS), int)
_ROUND |= {"rejected": dict, "contaminated": dict, "objects": list}
_INSTANCES: dict[str, type] = dict.fromkeys(("blocks", "instructions", "instances"), int)
_STATS: dict[str, type] = {"rounds": int, "rows": int, "shards": list}
_OBJECT: dict[str, type] = {"key": str, "rows": int, "size": int, "sha256": str}


@dataclass
class Check:
    """One promise: how many things were looked at, and each that is wrong, on one line.

    ``notes`` say what was left out, and why.
    """

    name: str
    count: int = 0
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unlisted: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def find(self, key: str, what: str) -> None:
        """Note that an object is wrong; of many findings only the first are spelt out."""
        if len(self.findings) < LIMIT:
            self.findings.append(" ".join(f"{key}: {what}".split()))
        else:
            self.unlisted += 1

    def expect(self, key: str, name: str, found: Any, said: Any) -> None:
        """Find fault with a manifest that says otherwise than what was found."""
        if found != said:
            self.find(key, f"says {name} {said}, found {found}")

    def merge(self, part: Check) -> None:
        """Take what the same check came to of other things."""
        self.count += part.count
        room = LIMIT - len(self.findings)
        self.findings += part.findings[:room]
        self.unlisted += part.unlisted + len(part.findings[room:])
        self.notes += part.notes

    def as_dict(self) -> dict[str, Any]:
        """Keys: check, ok, count, findings, notes."""
        more = [f"and {self.unlisted} more"] if self.unlisted else []
        return {
            "check": self.name,
            "ok": self.ok,
            "count": self.count,
            "findings": self.findings + more,
            "notes": self.notes,
        }


class Audit:
    """The stored side of a verification: manifests, the objects they name, and what nobody names.

    ``rounds`` are the sound manifests up to the first that isn't, ``sound_rounds`` all, by number;
    ``instances`` and ``stats`` are None where absent or damaged; ``damaged`` holds the keys that
    have a finding already; ``intact`` says whether every manifest is sound.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        # before the manifests: later objects may be newer; in order, and quick to look into
        self.keys = dict.fromkeys(run.objects.list())
        self.finished = "stats.json" in self.keys
        self.rounds: list[RoundManifest] = []
        self.sound_rounds: dict[int, RoundManifest] = {}
        self.instances: Manifest | None = None
        self.stats: Stats | None = None
        self.damaged: set[str] = set()
        self.intact = True
        self._blocks: list[str] = []
        self._named: dict[str, tuple[str, ShardInfo]] = {}  # key -> who says what of it

    # Manifests ---------------------------------------------------------------------------------

    def check_manifests(self) -> Check:
        """Rounds consecutive; every manifest of the right form."""
        check = Check("manifests")
        numbers = [
            int(match[1])
            for key in self.keys
            if (match := _IN_ROUND.fullmatch(key)) and match[2] == "manifest.json"
        ]
        self._name(check, "run.json", self.run.header.get("objects", []), _OF_HEADER)
        self.instances = self._manifest(check, "instances/manifest.json", _INSTANCES)
        self.stats = cast("Stats | None", self._manifest(check, "stats.json", _STATS))
        expected = max([number + 1 for number in numbers], default=0)
        if self.instances and isinstance(self.instances.get("rounds"), int):
            expected = self.instances["rounds"]  # one beyond these is a stray
        if self.stats:
            if not self.run.is_selection:  # which has no rounds of its own
                expected = max(expected, min(self.stats["rounds"], len(self.keys)))
            self._name(check, "stats.json", self.stats["shards"], "data/")
            self._name(check, "stats.json", self.stats.get("documents", []), _DOCUMENTS)
            if "instances/manifest.json" not in self.keys and not self.run.is_selection:
                self._lost(check, "instances/manifest.json", "is missing, though the run is done")
        if self.instances:
            self._name_instances(check, self.instances)
        elif "instances/manifest.json" not in self.keys:
            self._name_in_parts(check)
        keys = [f"{round_folder(round_)}/manifest.json" for round_ in range(expected)]
        for round_, data in enumerate(read_ahead(self._get, keys)):
            if keys[round_] not in self.keys:
                self._lost(check, keys[round_], "is missing, though the run went on")
            elif manifest := self._manifest_of(check, keys[round_], data, _ROUND):
                self._check_round(check, round_, manifest)
        return check

    def _name_instances(self, check: Check, manifest: Manifest) -> None:
        """Take what the manifest of the instances names: parts that name blocks, or blocks."""
        key, parts = "instances/manifest.json", manifest.get("parts", [])
        self._name(check, key, manifest.get("objects", []), "instances/block-")
        self._name(check, key, parts, "instances/part-")
        for part in parts if self.intact else ():
            table = self.table(part["key"], PART, check)
            self.intact = self.intact and table is not None
            for entry in table.select(list(_OBJECT)).to_pylist() if table else ():
                self._name(check, part["key"], entry, "instances/block-")
                self._blocks.append(entry["key"])
        if self.intact and "objects" in manifest:
            named = block_keys(entry["key"] for entry in manifest["objects"])
            self._blocks += named.values()

    def _name_in_parts(self, check: Check) -> None:
        """Take what full parts name, where no manifest does yet: a resume goes by them alone.

        Blocks with requests that failed are left out: it looks at those, and asks them again.
        """
        config = section_of(self.run.header, "config")
        size = section_of(config, "instances").get("block_size", 0)
        keys = last_parts(self.keys)
        parts = read_ahead(lambda key: read_whole(self.run.objects, key, PART), keys.values())
        for (number, key), part in zip(keys.items(), parts, strict=True):
            if part == "is missing":
                continue  # of a run that was finished meanwhile
            if isinstance(part, str):
                self._lost(check, key, part)
                continue
            entries = part.select([*_OBJECT, "block", "failed"]).to_pylist()
            if is_full(number, ((entry["block"], entry["rows"]) for entry in entries), size):
                final = [entry for entry in entries if not entry["failed"]]
                self._name(check, key, final, "instances/block-")

    def instance_keys(self) -> list[str]:
        """The instance blocks by number: those that the manifest names, else those that stand."""
        if self.instances:
            return self._blocks
        return list(block_keys(key for key in self.keys if key.startswith("instances/")).values())

    def _check_round(self, check: Check, round_: int, manifest: Manifest) -> None:
        folder = round_folder(round_)
        key = f"{folder}/manifest.json"
        check.expect(key, "round", round_, manifest["round"])
        for name in ("rejected", "contaminated"):
            if not all(map(_is_counted, manifest[name].values())):
                self._lost(check, key, f"says {name}, but not in numbers")
                return
        named = manifest["objects"]
        self._name(check, key, named, f"{folder}/")
        for name in _DECISIONS:
            if not any(_key_of(entry).startswith(f"{folder}/{name}-") for entry in named):
                self._lost(check, key, f"does not name {name}")
        if key not in self.damaged:
            self.sound_rounds[round_] = cast(RoundManifest, manifest)
        if self.intact:
            self.rounds.append(cast(RoundManifest, manifest))

    def _manifest(self, check: Check, key: str, form: dict[str, type]) -> Manifest | None:
        return self._manifest_of(check, key, self._get(key), form) if key in self.keys else None

    def _get(self, key: str) -> bytes | Exception:
        """An object's bytes, or why there are none."""
        try:
            return read(self.run.objects, key)
        except (KeyError, OSError) as error:
            return error

    def _manifest_of(
        self, check: Check, key: str, data: bytes | Exception, form: dict[str, type]
    ) -> Manifest | None:
        check.count += 1
        if isinstance(data, OSError):
            self._lost(check, key, f"cannot be read: {data}")
            return None
        try:
            if isinstance(data, Exception):
                raise data
            found = json.loads(data)
        except (KeyError, ValueError, RecursionError) as error:
            self._lost(check, key, f"is damaged: {error}")
            return None
        wrong = _wrong(found, form)
        if wrong:
            self._lost(check, key, f"is damaged: {wrong}")
            return None
        manifest: Manifest = found
        if manifest != seal(manifest):
            self._lost(check, key, "has other content than its own SHA-256 says")
            return None
        return manifest

    def _lost(self, check: Check, key: str, what: str) -> None:
        check.find(key, what)
        self.damaged.add(key)
        self.intact = False

    def _name(self, check: Check, source: str, entries: Any, prefix: str | tuple[str, ...]) -> None:
        """Take what a manifest names; only objects under ``prefix`` are its to name."""
        for entry in entries if isinstance(entries, list) else [entries]:
            wrong = _wrong(entry, _OBJECT)
            if wrong:
                self._lost(check, source, f"names an object wrongly: {wrong}")
            elif not entry["key"].startswith(prefix) or ".." in entry["key"].split("/"):
                self._lost(check, source, f"names {entry['key']}, which is not its own")
            else:
                said = ShardInfo(**{name: entry[name] for name in _OBJECT})
                self._named[said.key] = (source, said)

    # Objects -----------------------------------------------------------------------------------

    def said(self, key: str) -> ShardInfo | None:
        """What a manifest says of an object; None where none names it."""
        return self._named[key][1] if key in self._named else None

    def check_objects(self, listen: Callable[[str, int, int], None] = lambda *step: None) -> Check:
        """Every named object is there, with the size, SHA-256 and rows that its manifest says.

        ``listen`` hears of each.
        """
        check = Check("objects")
        results = read_ahead(lambda named: self._wrong_object(*named), self._named.values())
        for (_, said), wrong in zip(self._named.values(), results, strict=True):
            check.count += 1
            listen("objects", check.count, len(self._named))
            if wrong:
                check.find(said.key, wrong)
                self.damaged.add(said.key)
        return check

    def wrong_object(self, key: str) -> str | None:
        """What is wrong with a named object; None where it is as its manifest says."""
        return self._wrong_object(*self._named[key])

    def _wrong_object(self, source: str, said: ShardInfo) -> str | None:
        try:
            data = read(self.run.objects, said.key)
        except KeyError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {error}"
        if len(data) != said.size:
            return f"has {len(data)} bytes, not {said.size} as {source} says"
        if hashlib.sha256(data).hexdigest() != said.sha256:
            return f"has other content than {source} says (SHA-256)"
        try:
            rows = _rows(said.key, data)
        except (pa.ArrowException, OSError) as error:
            return f"cannot be read: {error}"
        return None if rows == said.rows else f"has {rows} rows, not {said.rows} as {source} says"

    def table(self, key: str, schema: pa.Schema, check: Check) -> pa.Table | None:
        """A Parquet object with these columns, whole; else None, with a finding somewhere."""
        if key in self.damaged:
            return None
        table = read_whole(self.run.objects, key, schema)
        if not isinstance(table, str):
            return table
        check.find(key, table)
        self.damaged.add(key)
        return None

    # Strays ------------------------------------------------------------------------------------

    def check_strays(self, round_blocks: int, instance_blocks: int) -> Check:
        """Nothing is there that nothing names; in an unfinished run, what is begun is counted.

        The numbers are those of the blocks in a round, and in the instance phase.
        """
        check = Check("strays")
        begun = 0
        taken = {unfenced(key) for key in self._named}  # places of what was first asked, too
        blocks = {block_key(INSTANCES, number) for number in range(instance_blocks)} - taken
        for key in (*self.keys, *self._temporaries()):
            check.count += 1
            if key in self._named or key in _OWN_KEYS or key in blocks:
                continue
            if key.startswith((_LEASE, _SCORES, JOB)):
                continue
            if key not in taken and self._is_of_a_round(key, round_blocks):
                continue
            if not self.intact and _is_begun(key):
                continue
            if not self.finished and _is_begun(key):
                begun += 1
            else:
                check.find(key, "is named by nothing")
        if begun:
            check.notes.append(f"unfinished: {begun} objects that no manifest names yet")
        return check

    def _temporaries(self) -> Iterator[str]:
        return self.run.objects.temporaries()

    def _is_of_a_round(self, key: str, round_blocks: int) -> bool:
        match = _IN_ROUND.fullmatch(key)
        if not match or int(match[1]) >= len(self.rounds):
            return False
        folder = round_folder(int(match[1]))
        block = block_number(key, folder)
        if block is not None and block < round_blocks:
            return key == block_key(folder, block)
        return key == f"{folder}/manifest.json"


def section_of(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of a header or a configuration that may be damaged: {} where there is none."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _is_counted(value: object) -> bool:
    """Whether a value is a number, or numbers by name."""
    numbers = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(number, int) for number in numbers)


def _key_of(entry: Any) -> str:
    """The key that an entry of a manifest names, "" where it names none."""
    return str(entry.get("key", "")) if isinstance(entry, dict) else ""


_BEGUN = re.compile(
    r"bootstrap/round-\d{5,}/(block-\d{5,}(-\d{5,})?|(accepted|rejected|embeddings|inputs)-\d{5,}|manifest)"
    r"\.(parquet|json)"
    r"|checkpoint/(rounds|pool)-\d{5,}-\d{5,}-\d{5,}\.parquet|instances/part-\d{5,}-\d{5,}\.parquet"
    r"|instances/block-\d{5,}(-\d{5,})?\.parquet|data/train-\d{5,}-of-\d{5,}\.(parquet|jsonl)"
    r"|README\.md|report\.html|(.+/)?\.tmp-[^/]*|live\.json"
)


def _is_begun(key: str) -> bool:
    """Whether a build leaves such an object before a manifest names it."""
    return bool(_BEGUN.fullmatch(key))


def _wrong(value: Any, form: dict[str, type]) -> str | None:
    """What keeps a JSON value from being an object with these fields."""
    if not isinstance(value, dict):
        return "it is no JSON object"
    for name, kind in form.items():
        if not isinstance(value.get(name), kind):
            return f"{name} is {'wrong' if name in value else 'missing'}"
    return None


def _rows(key: str, data: bytes) -> int:
    if key.endswith(".jsonl"):
        return data.count(b"\n")
    if key in _DOCUMENTS:
        return 0
    with pq.ParquetFile(pa.BufferReader(data)) as stored:
        rows: int = stored.metadata.num_rows
    return rows


def read(objects: Objects, key: str) -> bytes:
    """An object's bytes; KeyError where there is none, OSError where it alone cannot be read.

    Raises StorageError or StorageLostError where the run's header cannot be either, so that the
    store is not there, or not there any more.
    """
    try:
        return objects.get(key)
    except (StorageError, StorageLostError) as error:
        objects.get("run.json")
        raise OSError(one_line(error).partition(";")[0]) from error


def read_whole(objects: Objects, key: str, schema: pa.Schema) -> pa.Table | str:
    """A Parquet object with these columns, or what is wrong with it."""
    try:
        data = read(objects, key)
    except KeyError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error}"
    try:
        table = from_parquet(data, schema.names)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"cannot be read: {error}"
    return wrong_columns(table, schema) or table


_FORMER = {EMBEDDING: pa.list_(pa.float32())}
"""Types of columns -> what they were in runs begun by earlier versions."""


def wrong_columns(table: pa.Table, schema: pa.Schema) -> str | None:
    """What keeps a table from having these columns, with nulls in `NULLABLE` ones only."""
    for column in schema:
        if column.name not in table.column_names:
            return f"has no column {column.name}"
        stored = table[column.name]
        if stored.type != column.type and stored.type != _FORMER.get(column.type):
            return f"has {column.name} of type {stored.type}, not {column.type}"
        if stored.null_count and column.name not in NULLABLE:
            return f"has no {column.name} in {stored.null_count} rows"
    return None
