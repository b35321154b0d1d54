"""For the site: a link to a file of the repository, which the site lacks, becomes its name."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]*)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's text as mkdocs is to render it; mkdocs calls this."""
    return _OUTSIDE.sub(_named, markdown)


def _named(link: re.Match[str]) -> str:
    text, path = link[1], link[2].rstrip("/")
    return f"`{path}`" if text.strip("`/") in path else f"{text} (`{path}`)"
