"""A score of one's own, as a user has one."""

from __future__ import annotations


def brevity(rows):
    """Fewer characters are better."""
    return [-len(row["output"]) for row in rows]
