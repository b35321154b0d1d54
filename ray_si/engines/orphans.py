"""Processes of vLLM's that must not outlive the process that started them.

vLLM computes in a process of its own (EngineCore), which nobody tells when its parent is killed: it
would hold the GPU's memory for ever. Two things end it. It looks for its parent itself, once a
second, by a plugin that vLLM loads in its processes; and whoever starts an engine on the node first
ends those whose owners are gone, by the notes that owners leave.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

VARIABLE = "RAY_SI_ENGINE_OWNER"
"""Environment variable with the process id of the replica that an engine belongs to."""

_LOOK_S = 1.0
"""Seconds between looks for the parent."""

_END_S = 10.0
"""Seconds for a process that is ended to be gone."""

logger = logging.getLogger(__name__)


def follow_owner() -> None:
    """Have this process killed once the replica is gone that started it.

    A plugin of vLLM's (``vllm.general_plugins``); does nothing in engines that are not ours, and
    nothing in the replica itself.
    """
    owner = os.environ.get(VARIABLE)
    if owner and int(owner) != os.getpid():
        threading.Thread(target=_follow, args=(int(owner),), name="owner", daemon=True).start()


def _follow(owner: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner)
        while process.is_running():  # the same one, not another with its number
            time.sleep(_LOOK_S)
    os.kill(os.getpid(), 9)


def started_by(start: Callable[[], Any]) -> Any:
    """What ``start`` returns; processes that it starts are noted as this one's, and follow it."""
    os.environ[VARIABLE] = str(os.getpid())
    before = set(_children())
    try:
        return start()
    finally:
        _note([process for process in _children() if process not in before])


def reap() -> int:
    """End noted processes of this user's whose owners are gone; how many there were."""
    ended = []
    for note in _folder().glob("*.json"):
        with suppress(OSError, ValueError, KeyError):
            owner, *others = json.loads(note.read_text(encoding="utf-8"))["processes"]
            if _living(owner):
                continue
            ended += list(filter(None, map(_living, others)))
            note.unlink()
    for process in ended:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(ended, timeout=_END_S)
    if ended:
        logger.warning("ended %d processes of engines whose replicas are gone", len(ended))
    return len(ended)


def _note(children: list[psutil.Process]) -> None:
    processes = [psutil.Process(), *children]
    note = {"processes": [[process.pid, process.create_time()] for process in processes]}
    path = _folder() / f"{os.getpid()}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(note), encoding="utf-8")
    temporary.replace(path)


def _living(note: list[Any]) -> psutil.Process | None:
    pid, created = note
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _children() -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"ray_si-engines-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
