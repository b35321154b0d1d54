"""Ids name one thing each, for ever; seeds are what they always were."""

from __future__ import annotations
