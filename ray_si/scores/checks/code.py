"""Python that was asked for, compiled and never run, in a process with little of anything."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap

from ray_si.errors import ConfigError

_ASKED = re.compile(r"\bpython\b", re.I)
_BLOCK = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^`\n]*\n(.*?)(?:\1[`~]*[^\S\n]*$|\Z)", re.S | re.M
)
"""A fence, the language that it names, and the block up to the next such fence, or the end."""

_PYTHON = re.compile(r"py(?:thon)?[\d.]*", re.I)
_SESSION = re.compile(r"^\s*(?:>>>|[!%]\w|\$ )", re.M)
_LOOKS_LIKE_CODE = re.compile(
    r"^\s*(?:def |class |import |from \w+ import |for .+:|if .+:|print\()", re.M
)
_PROSE = re.compile(r"^[A-Z][\w']*[,:!]? [\w']+ [\w']+", re.M)

_SECONDS = 5
_MEMORY = 512 << 20
"""Bytes of address space for the compiler."""

_PROGRAM = f"""
import resource, sys
for limit, value in (
    (resource.RLIMIT_AS, {_MEMORY}), (resource.RLIMIT_CPU, {_SECONDS}),
    (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 8), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(limit, (value, value))
try:
    compile(sys.stdin.read(), "answer", "exec", dont_inherit=True)
except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    print(f"{{type(error).__name__}}: {{error}}".splitlines()[0])
"""


class Compiler:
    """Compiles the Python in answers to instructions that ask for Python.

    A separate interpreter without site packages or environment does it, with limits on memory,
    time, files and their size: a text that brings down a compiler brings down that process alone.
    Raises ConfigError where this system has no such limits, or a compiler cannot live in them.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("resource") is None or _compiled("pass"):
            raise ConfigError(
                "checks.code: this system cannot limit what a process takes, so no code is "
                "compiled here: leave it out, or score on Linux or macOS"
            )

    def wrong_code(self, instruction: str, input_: str, output: str) -> str | None:
        """Code that does not compile; None where it does, or none was asked for."""
        if not _ASKED.search(instruction):
            return None
        for source in _sources(output):
            if wrong := _compiled(source):
                return f"the code does not compile: {wrong}"
        return None


def _sources(output: str) -> list[str]:
    """What an answer says is Python; where it says it of nothing, what looks like nothing else.

    Sessions of an interpreter or a shell are neither.
    """
    blocks = [(language, textwrap.dedent(text)) for _, language, text in _BLOCK.findall(output)]
    named = [text for language, text in blocks if _PYTHON.fullmatch(language)]
    unnamed = [text for language, text in blocks if not language] if blocks else [output]
    alike = [text for text in unnamed if _LOOKS_LIKE_CODE.search(text) and not _PROSE.search(text)]
    return [text for text in named or alike if not _SESSION.search(text)]


def _compiled(source: str) -> str | None:
    """What the compiler objects to."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=source.encode("utf-8", "replace"),
            capture_output=True,
            timeout=2 * _SECONDS,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the compiler takes more than {2 * _SECONDS} s"
    if done.returncode:
        return "the compiler died"
    return done.stdout.decode("utf-8", "replace").strip() or None
