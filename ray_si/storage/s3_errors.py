"""What boto3 raises -> errors of ours, one line each, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError as BotoConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

from ray_si.errors import RaySIError, StorageError, StorageLostError, one_line

_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
)
SILENCE = (BotoConnectionError, HTTPClientError, IncompleteReadError)
"""No answer, or half of one."""

_BUSY = (
    "SlowDown",
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "BandwidthLimitExceeded",
)
"""S3's error codes that pass by themselves, whatever the status of the answer."""

_REFUSED = "the credentials are refused; see AWS_ACCESS_KEY_ID, AWS_PROFILE or ~/.aws"
_EXPIRED = "the credentials have expired; renew them"
_DENIED = (
    "no permission; a run needs s3:ListBucket, GetObject, PutObject, DeleteObject and "
    "AbortMultipartUpload there"
)
_ELSEWHERE = "the bucket is in another region; set AWS_DEFAULT_REGION to its own"
_MEND = {
    "NoSuchBucket": "there is no such bucket; create it, or mend the name or the endpoint",
    "404": "there is no such bucket; create it, or mend the name or the endpoint",
    "InvalidBucketName": "that is no name of a bucket",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "Forbidden": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidToken": _REFUSED,
    "InvalidClientTokenId": _REFUSED,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "PermanentRedirect": _ELSEWHERE,
    "301": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "IllegalLocationConstraintException": _ELSEWHERE,
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "EntityTooLarge": (
        "that is larger than this store takes; choose another one, or smaller shards "
        "(output.rows_per_shard) in a run of its own"
    ),
    "QuotaExceeded": "the quota is used up; raise it or free some space",
}
"""S3's error codes that the user can mend -> what is wrong and what to do."""


def error_code(error: ClientError) -> str:
    """S3's name for what went wrong, or the status where an answer has no body."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def passes(response: tuple[Any, dict[str, Any]] | None, error: Exception | None) -> bool:
    """Whether what befell a request passes by itself: an answer, raw and read, or the lack of one.

    A store without a feature answers 501 for good.
    """
    if response is None:
        return isinstance(error, SILENCE)
    raw, answer = response
    status: int = raw.status_code
    code = answer.get("Error", {}).get("Code")
    return status == 429 or (status >= 500 and status != 501) or code in _BUSY


@contextmanager
def translated(where: str, lost: type[RaySIError] = StorageLostError) -> Iterator[None]:
    """What boto3 raises as one of ours; ``lost`` is for a store that does not answer or fails."""
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        message = error.response.get("Error", {}).get("Message", "")
        if code in _MEND:
            said = f": {one_line(message, 300)}" * bool(message)
            raise StorageError(f"{where}: {_MEND[code]} ({code}{said})") from error
        raise lost(_kept(f"{where}: S3 says {code}: {message}", lost)) from error
    except _CREDENTIALS as error:
        raise StorageError(
            f"{where}: there are no credentials ({one_line(error)}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except FlexibleChecksumError as error:
        raise StorageError(f"{where} is damaged: {one_line(error)}") from error
    except SILENCE as error:
        what = f"{where}: {_endpoint(error)} does not answer ({type(error).__name__})"
        raise lost(_kept(f"{what}; check the network and AWS_ENDPOINT_URL_S3", lost)) from error
    except ResponseParserError as error:
        raise lost(f"{where}: what answers is not S3; check AWS_ENDPOINT_URL_S3") from error
    except BotoCoreError as error:
        raise StorageError(f"{where} cannot be used: {one_line(error)}") from error


def _kept(text: str, lost: type[RaySIError]) -> str:
    kept = "; what is finished is kept, and the same command goes on" * (lost is StorageLostError)
    return " ".join(text.split()) + kept


def _endpoint(error: BotoCoreError) -> str:
    """Host and port that an error is about, without anything secret that a URL may hold."""
    url = urlsplit(str(error.kwargs.get("endpoint_url") or ""))
    return (f"{url.hostname}:{url.port}" if url.port else url.hostname) or "the store"
