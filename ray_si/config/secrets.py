"""What looks like a secret, by kind: such values must not go where others read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
"""The words of a name, of DB_PASS, dbPass and db-pass alike."""

_SECRET_WORDS = {
    "AUTHORIZATION", "BEARER", "COOKIE", "COOKIES", "CRED", "CREDS", "JWT", "KEY", "KEYS", "PASS",
    "PAT", "PW", "PWD", "SAS", "TOKEN",
}  # fmt: skip
_SECRET_PARTS = re.compile(
    r"PASSW|PASSPHRASE|SECRET|CREDENTIAL|(API|AUTH|ACCESS|PRIVATE|SIGNING)(KEY|TOKEN)"
)
"""What makes a word a secret's wherever it stands in it, as in PGPASSWORD."""

_HARMLESS = re.compile(r"_(FILE|PATH|DIR|ENV|MODE)$|(^|_)(CACHE|PUBLIC|SORT|PARTITION)_KEYS?$")
"""Names of what only says where a secret is, and of keys that open nothing."""

_FORMATS = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----
    | \b(Bearer|Basic)\s+[\w.~+/=-]{8,}
    | \b(sk|rk|pk)[-_](live|test|ant|proj|or|svcacct)?[-_]?[A-Za-z0-9_-]{16,}
    | \b(gsk|r8|hf|npm|pat|dop_v1|gh[opusr]|github_pat)_[A-Za-z0-9_]{16,}
    | \b(glpat|nvapi|xai|pplx|xox[a-z]|pypi)-[A-Za-z0-9_-]{16,}
    | \b(AKIA|ASIA|AIza)[A-Za-z0-9_-]{16,}
    | \bSG\.[\w-]{16,}\.[\w-]{16,}
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.
    | \b(password|pwd|passwd|AccountKey|SharedAccessKey)\s*=\s*\S
    """,
    re.VERBOSE,
)
"""How keys of well-known services begin, JSON web tokens, and passwords in connection strings."""


def is_secret(name: str, value: object) -> bool:
    """Whether a value is a secret, by its name or by its own looks.

    Numbers and truth values never are: ``max_tokens`` and the like count things.
    """
    return isinstance(value, str) and value != "" and (_is_named_so(name) or _looks_so(value))


def secrets_in(value: object, path: str) -> list[str]:
    """Dotted keys, each beginning with ``path``, of the secrets in nested mappings and lists."""
    if isinstance(value, Mapping):
        return [key for name, v in value.items() for key in secrets_in(v, f"{path}.{name}")]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [key for v in value for key in secrets_in(v, path)]
    return [path] if is_secret(path.rpartition(".")[2], value) else []


def _is_named_so(name: str) -> bool:
    words = [word.upper() for word in _WORDS.findall(name)]
    joined = "_".join(words)
    if _HARMLESS.search(joined):
        return False
    return (
        not _SECRET_WORDS.isdisjoint(words)
        or bool(_SECRET_PARTS.search(joined))
        or bool(_SECRET_PARTS.search("".join(words)))
        or words[-1:] == ["AUTH"]
    )


def _looks_so(value: str) -> bool:
    if _FORMATS.search(value):
        return True
    try:
        url = urlsplit(value)
        named = any(_is_named_so(name) for name, _ in parse_qsl(url.query))
    except ValueError:  # an unclosed bracket, say: no URL
        return False
    is_token = url.scheme in ("http", "https") and url.username is not None
    return bool(url.scheme and url.netloc) and (url.password is not None or is_token or named)
