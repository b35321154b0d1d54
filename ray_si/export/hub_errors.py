"""What the hub's client raises -> errors of ours, one line each, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from ray_si.errors import HubError, HubLostError, RaySIError, one_line

_REFUSED = (
    "the token is refused; set another as HF_TOKEN (it goes before a login), or log in anew with "
    "`hf auth login --force`"
)
_DENIED = (
    "no permission to write there; take a repository of yours or of an organization that lets you "
    "write, and a token that may write"
)
_MEND = {
    401: _REFUSED,
    402: "the account's storage or plan does not allow it",
    403: _DENIED,
    404: "there is no such repository or branch, or the token may not see it",
    409: "it is in conflict with what is there",
    412: "somebody else has changed it meanwhile; push again",
    413: "that is more than it takes in one commit; push Parquet, or larger shards",
}
"""Status of an answer that the user can mend -> what is wrong and what to do."""

_NOTHING = "; nothing was committed"


@contextmanager
def translated(host: str, repo: str) -> Iterator[None]:
    """What the client of the hub at ``host`` raises as one of ours."""
    try:
        yield
    except RaySIError:
        raise
    except LocalTokenNotFoundError as error:
        raise HubError(
            f"there is no token for {host}: set HF_TOKEN, or log in once with `hf auth login`"
        ) from error
    except OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set; unset it to push") from error
    except (HTTPError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise _ours(error, host, repo) from error


def _ours(error: BaseException, host: str, repo: str) -> RaySIError:
    where = f"{repo} on {host}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        message = one_line(error.server_message or "")
        detail = f" ({message})" if message else ""
        if isinstance(error, RevisionNotFoundError):
            return HubError(f"{where}: there is no such branch{detail}")
        if status in _MEND:
            return HubError(f"{where}: {_MEND[status]}{detail}")
        if status < 500 and status != 429:
            return HubError(f"{where}: refused with status {status}{detail}")
        return HubLostError(f"{where}: failed with status {status}{detail}{_NOTHING}; push again")
    if isinstance(error, RuntimeError) and error.__cause__:  # one upload of several
        return _ours(error.__cause__, host, repo)
    text = one_line(error)
    if isinstance(error, (JSONDecodeError, KeyError)):
        return HubError(f"what answers at {host} is not a hub; check --endpoint or HF_ENDPOINT")
    if isinstance(error, HTTPError):
        return HubLostError(
            f"{host} does not answer ({type(error).__name__}){_NOTHING}; check the network, "
            "--endpoint and HF_ENDPOINT"
        )
    if isinstance(error, OSError):  # of Xet, the hub's storage for large files
        hint = "; for a hub without Xet storage set HF_HUB_DISABLE_XET=1" * ("404" in text)
        return HubLostError(f"{where}: the upload failed ({text}){_NOTHING}{hint}")
    return HubLostError(f"{where}: the upload failed ({text}){_NOTHING}")
