"""The pages written from the code say what the code says."""

from __future__ import annotations

import importlib.util

from tests.pages import ROOT


def pages():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


def test_written_pages_are_up_to_date():
    for name, text in pages().items():
        assert (ROOT / "docs" / name).read_text() == text, "run `make docs`"
