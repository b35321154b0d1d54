"""Words for no input, bare and explained, and inputs that begin with them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ray_si.self_instruct.placeholders import is_placeholder

WORDS = """<noinput>|<no input>|<none>|N/A|n/a|NA|N.A.|none|None.|NONE|(none)|[none]|**None**|`N/A`
    |null|No input|no input needed|No input required.|No Input Required|not applicable|(empty)|-|—
    |...|No additional input needed|None required
    |No input is required for this task.|无|无输入|なし|keine|aucune|нет""".split("|")


@pytest.mark.parametrize("text", WORDS)
def test_words_for_no_input_are_none(text):
    assert is_placeholder(text.strip())


EXPLAINED = (
    "N/A (no input required)", "None (no input needed)", "Not applicable (no input required)",
    "None. The task does not need an input.", "This task does not require an input.",
    "No input (the task is open-ended)", "No input needed - the task is self-contained.",
    "None\n\nThe task is self-contained.", "**None** – no input is needed",
    "N/A 【no input needed】", "_No input required_ (self-contained task)",
    "(No input: the task is self-contained)",
    "None, as the task is open-ended", "None because this task doesn't need any input",
    "N/A: the instruction needs no input.", "<noinput> (no input needed)",
    "`None` (The instruction doesn’t require input.)", "None. Input is not needed.",
    "None. The task does not need an input. It asks for a poem.", "NONE: OPEN-ENDED TASK",
    "None needed; this writing task requires no specific input.", "无（该任务不需要输入）",
    "No input required. This is a self-contained question.", "Keine (keine Eingabe nötig)",
)  # fmt: skip


@pytest.mark.parametrize("text", EXPLAINED)
def test_a_word_for_none_may_say_why(text):
    assert is_placeholder(text)


WORD = st.sampled_from(("None", "N/A", "No input", "Not applicable", "<noinput>", "NONE"))
WHY = st.sampled_from(
    ("no input required", "The task is self-contained.", "this task does not need any input")
)
AROUND = st.sampled_from(
    ("{} ({})", "**{}** ({})", "*{}* – {}", "{} — {}", "{}: {}", "{}. {}", "{}, as {}", "{} [{}]",
     "({}) {}", "`{}`\n\n*{}*", "{}; {}")
)  # fmt: skip


@given(WORD, WHY, AROUND)
def test_however_it_is_set_apart(word, why, around):
    assert is_placeholder(around.format(word, why))


@pytest.mark.parametrize(
    "text",
    [
        "no", "none of them", "+", "!", "0", "NaN", "no way", "N/A is one",
        "None of the above are needed", "None of them need an input.", "None, None, N/A",
        "N/A is an abbreviation of not applicable.", "The task is self-contained.",
        "No input validation: the form requires a name", "None. The form requires a name.",
        "No input is required. Press any key to continue.", "N/A: the answer was not necessary.",
        "No input is required because the door is open.", "The program needs no input.",
        "This task does not require much skill.", "The task requires two inputs.",
        "This instruction does not use input validation, so check it.", "no input\nno output",
    ],
)  # fmt: skip
def test_other_inputs_are_kept(text):
    assert not is_placeholder(text)
