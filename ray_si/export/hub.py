"""A dataset repository on a Hugging Face hub, written by the hub's own client in one commit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetInfo,
    HfApi,
    get_session,
    logging as hub_logging,
)
from huggingface_hub.errors import BadRequestError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import (
    build_hf_headers,
    disable_progress_bars,
    hf_raise_for_status,
    validate_repo_id,
)

from ray_si._version import __version__
from ray_si.errors import HubError
from ray_si.export.dataset_files import CARD, DatasetFiles
from ray_si.export.hub_errors import translated
from ray_si.records import StepListener

_MAIN = "main"
_KIND = "dataset"
_OWN = ".gitattributes"
"""What the hub puts into a repository by itself."""


@dataclass(frozen=True)
class Pushed:
    """What a push came to.

    ``url`` is the dataset's page and ``commit`` the commit's hash, a new one if ``changed``.
    ``removed`` are shards of an earlier version, ``others`` files that were left as they are.
    """

    url: str
    commit: str
    changed: bool
    removed: list[str]
    others: list[str]


class Hub:
    """A dataset repository; raises HubError for what the user can mend, HubLostError otherwise.

    ``repo`` is ORG/NAME. ``endpoint`` is the hub's URL, by default HF_ENDPOINT or
    huggingface.co. The token is HF_TOKEN, or that of the last `hf auth login`.
    """

    def __init__(self, repo: str, endpoint: str | None = None) -> None:
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise HubError(f"{repo!r} cannot name a repository: {_first_line(error)}") from error
        if "/" not in repo:
            raise HubError(f"{repo!r} names no owner: write ORG/NAME, or your own name for ORG")
        self._api = HfApi(endpoint=endpoint and endpoint.rstrip("/"), library_name="ray_si",
                          library_version=__version__)  # fmt: skip
        url = urlsplit(self._api.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise HubError(f"{self._api.endpoint} is not the URL of a hub: write https://HOST")
        self.repo = repo
        self.host = f"{url.hostname}:{url.port}" if url.port else url.hostname

    def check(self) -> str:
        """The name of the token's owner; refuses where there is no token, or it only reads."""
        _quiet()
        with translated(self.host, self.repo):
            me = self._api.whoami()
        token = (me.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise HubError(f"the token of {me['name']} only reads; make one that may write")
        return str(me["name"])

    def push(
        self,
        files: DatasetFiles,
        *,
        message: str | None = None,
        branch: str = _MAIN,
        private: bool = False,
        listen: StepListener = lambda *step: None,
    ) -> Pushed:
        """Put the files there in one commit; until then nothing of them shows.

        The repository and the branch are made where there are none, ``private`` if asked, and stay
        if what follows fails. Shards of an earlier version that are not among the files are removed
        in the same commit, and nothing else. Large files go ahead of the commit, some at a time
        (see `DatasetFiles.groups`). ``listen`` hears of files done and in all.

        Raises RunError where a file turns out to be damaged.
        """
        _quiet()
        with translated(self.host, self.repo):
            self._check_card(files)
            before = self._made(branch, private)
            additions = self._upload(files, branch, listen)
            new = {info.key for info in files.files}
            there = [file.rfilename for file in before.siblings or []]
            others = [name for name in there if name not in {*new, _OWN}]
            removed = [name for name in others if files.shards.fullmatch(name)]
            commit = self._api.create_commit(
                self.repo,
                [*additions, *(CommitOperationDelete(name) for name in removed)],
                commit_message=message or f"Push by ray_si {__version__}",
                repo_type=_KIND,
                revision=branch,
                parent_commit=before.sha,
            )
        return Pushed(
            url=f"{self._api.endpoint}/datasets/{self.repo}",
            commit=commit.oid,
            changed=commit.oid != before.sha,
            removed=removed,
            others=[name for name in others if name not in removed],
        )

    def _made(self, branch: str, private: bool) -> DatasetInfo:
        """What the branch holds; it and the repository are made if they are missing."""
        try:
            info = self._api.dataset_info(self.repo)
        except RepositoryNotFoundError:
            self._api.create_repo(
                self.repo, repo_type=_KIND, private=private or None, exist_ok=True
            )
        else:
            if private and not info.private:
                raise HubError(
                    f"{self.repo} on {self.host} is public; make it private in its settings first, "
                    "or push without --private"
                )
        if branch != _MAIN and not branch.startswith("refs/"):
            self._api.create_branch(self.repo, branch=branch, repo_type=_KIND, exist_ok=True)
        return self._api.dataset_info(self.repo, revision=branch)

    def _check_card(self, files: DatasetFiles) -> None:
        """Have the hub look at the card before anything is uploaded."""
        info = next((info for info in files.files if info.key == CARD), None)
        if info is None:
            return
        answer = get_session().post(
            f"{self._api.endpoint}/api/validate-yaml",
            json={"content": files.read(info).decode(), "repoType": _KIND},
            headers=build_hf_headers(),
        )
        try:
            hf_raise_for_status(answer)
        except BadRequestError as error:
            reasons = "; ".join(str(e.get("message")) for e in answer.json().get("errors", []))
            raise HubError(f"{self.host} refuses the card {CARD}: {reasons or error}") from error

    def _upload(
        self, files: DatasetFiles, branch: str, listen: StepListener
    ) -> list[CommitOperationAdd]:
        additions: list[CommitOperationAdd] = []
        for group in files.groups():
            listen("uploading", len(additions), len(files.files))
            part = [CommitOperationAdd(info.key, files.read(info)) for info in group]
            self._api.preupload_lfs_files(self.repo, part, repo_type=_KIND, revision=branch)
            additions += part
        listen("uploading", len(additions), len(files.files))
        return additions


def _quiet() -> None:
    """Leave it to us to say how it goes: the client would print bars and warnings of its own."""
    disable_progress_bars()
    hub_logging.set_verbosity(logging.ERROR)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
