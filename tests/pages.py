"""Commands and links in our Markdown pages."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

from click import Command, Group

ROOT = Path(__file__).parents[1]


def blocks(text: str) -> list[tuple[str, str]]:
    """Fenced blocks of a page: language (empty where none is named) and content, not indented."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.S | re.M)
    return [(language, textwrap.dedent(content)) for _, language, content in found]


def command_lines(text: str, language: str = "sh") -> list[str]:
    """Lines of the fenced blocks of a language; continued lines joined.

    Of a console only those behind a prompt, which is taken off.
    """
    joined = [block.replace("\\\n", " ") for kind, block in blocks(text) if kind == language]
    lines = [line for block in joined for line in block.splitlines()]
    if language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return lines


def commands(lines: list[str], *start: str) -> list[list[str]]:
    """Those that begin with these words, split as a shell would."""
    split = [shlex.split(line, comments=True) for line in lines if line.startswith(start[0])]
    return [words for words in split if tuple(words[: len(start)]) == start]


def parse(command: Command, words: list[str]) -> None:
    """What click makes of the words after the program's name; raises where it would refuse them."""
    context = command.make_context(words[0], list(words[1:]), resilient_parsing=False)
    if isinstance(command, Group):
        name, inner, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        parse(inner, [name or "", *rest])


def links(text: str) -> list[str]:
    """Targets of the links that lead into this repository, with their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not target.startswith(("http://", "https://"))]


def anchors(text: str) -> set[str]:
    """Names by which the headings of a page are linked to, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
