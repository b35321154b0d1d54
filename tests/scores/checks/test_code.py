"""Python in answers is compiled, never run, and what breaks a compiler breaks nothing else."""

from __future__ import annotations

import pytest

from ray_si.config.scores import ChecksScore
from ray_si.errors import ConfigError
from ray_si.scores.checks import code
from ray_si.scores.checks.code import Compiler
from ray_si.scores.checks.scorer import Checks

ASKED = "Write a Python function that adds."


def scored(output, *, code=True, instruction=ASKED):
    row = {"instruction": instruction, "input": "", "output": output}
    return Checks(ChecksScore(code=code)).score([row])[0]


def test_code_that_compiles_passes_and_other_code_is_named():
    assert scored("```python\ndef add(a, b):\n    return a + b\n```").value == 1
    wrong = scored("```python\ndef add(a, b)\n    return a + b\n```")
    assert wrong.value == 0
    assert "SyntaxError" in wrong.detail


def test_code_is_looked_at_only_where_it_was_asked_for():
    broken = "```python\ndef add(a, b)\n```"
    assert scored(broken, code=False).value == 1
    assert scored(broken, instruction="Write a Rust function.").value == 1
    assert scored("I would rather not.").value == 1


FINE = [
    "```bash\npip install x\n```\nThen run:\n```python\nprint(1)\n```",
    "```python\nprint('Hello World')\n```\nOutput:\n```\nHello World\n```",
    "```\nHello World\n```\nis what it prints.",
    "1. Write this:\n   ```Python3 title=a.py\n   def add(a, b):\n       return a + b\n   ```",
    "~~~py\ntext = '''\n```\n'''\n~~~",
    "````python\ntext = '''\n```\n'''\n````",
    "```python\nprint(1)```",
    "```python\nprint(1)",
    "```python\n>>> print(1)\n1\n```",
    "```python\n!pip install x\nimport x\n```",
    "```js\nimport x from 'x'\n```",
    "Here is the function:\n\ndef add(a, b):\n    return a + b\n\nIt adds two numbers.",
]
WRONG = [
    "```bash\nls\n```\nThen run:\n```python\nprint(1\n```",
    "```python3\nprint(1\n```",
    "~~~ py\nprint(1\n~~~",
    "```\nimport x\nprint(1\n```",
    "def add(a, b)\n    return a + b",
]


@pytest.mark.parametrize(("outputs", "value"), [(FINE, 1), (WRONG, 0)])
def test_what_is_compiled_is_python_and_whole(outputs, value):
    rows = [{"instruction": ASKED, "input": "", "output": output} for output in outputs]
    results = Checks(ChecksScore(code=True)).score(rows)
    unlike = zip(outputs, results, strict=True)
    assert [(output, found) for output, found in unlike if found.value != value] == []


def test_nothing_is_run(tmp_path):
    mark = tmp_path / "mark"
    source = f"open({str(mark)!r}, 'w').write('ran')\nraise SystemExit(3)"
    assert scored(f"```python\n{source}\n```").value == 1
    assert not mark.exists()


@pytest.mark.parametrize(
    "source", ["(" * 100_000, "x = " + "-" * 1_000_000 + "1", "\x00", "9" * 10_000]
)
def test_what_a_compiler_cannot_take_is_that_rows_trouble_alone(source):
    assert scored(f"```python\n{source}\n```").value in (0.0, 1.0)


def test_without_limits_on_processes_there_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"checks\.code: this system cannot limit"):
        Compiler()
    monkeypatch.undo()
    monkeypatch.setattr(code, "_PROGRAM", "raise SystemExit(1)")
    with pytest.raises(ConfigError, match=r"checks\.code: this system cannot limit"):
        Compiler()
