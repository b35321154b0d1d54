"""One model on Serve replicas for work beside a run, hosted as a build hosts its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ray_si.build import checks
from ray_si.build.probe import check_engines
from ray_si.config import RunConfig
from ray_si.engines.base import Request
from ray_si.run.folder import Folder
from ray_si.serving.applications import Serving, remove_predecessors
from ray_si.serving.custody import Custody, identity_of


@contextmanager
def hosted(
    config: RunConfig,
    name: str,
    folder: Folder,
    trial: Sequence[Request] = (),
    *,
    is_ours: bool,
    notify: Callable[[str], None],
) -> Iterator[Serving]:
    """The configuration's generator, under ``name``, for who holds ``folder``.

    Ray is connected, ``is_ours`` where it was started on this machine. Elsewhere it is tried first
    whether the engine can answer ``trial`` where replicas will run, and whether nodes can write the
    folder. A custodian looks after what is asked of the cluster, nodes included, from before it is
    asked. Raises ConfigError where there is no room, EngineError, StorageError, and LeaseLostError
    once another process holds the folder, while it waits too.
    """
    check, fencing = folder.check_lease, folder.fencing
    check()  # Ray may have been waited for: what is there may be another's
    identity = identity_of(config, embedder=False)
    with Custody(name, fencing, identity, check_lease=check) as custody:
        remove_predecessors(name, fencing, keep=custody.adopted, check=check)
        with custody.asking_for_nodes():
            config = checks.wait_for_room(
                config, embedder=False, is_ours=is_ours, notify=notify, check=check
            )
        if not is_ours:
            if custody.adopted is None:  # it runs, and has the place that this would wait for
                check_engines(config, trial, embedder=False, notify=notify)
            checks.check_location(folder.location)
        notify("loading the model")
        with Serving(
            config, name, fencing, embedder=False, notify=notify, check=check, custody=custody
        ) as serving:
            yield serving
