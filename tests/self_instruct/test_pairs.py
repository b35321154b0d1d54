"""Inputs and outputs: rendered in every form, they are read as what they were."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, strategies as st

from ray_si.records import Instance
from ray_si.self_instruct.headings import ENGLISH, lines_of
from ray_si.self_instruct.pairs import read_pairs

from .answer_forms import (
    CHINESE,
    CONTENTS,
    GERMAN,
    LABELLED,
    LETTERS,
    PAIRS,
    REMARKS,
    SENTENCES,
    SEPARATORS,
    filled,
)


def _read(text: str, *, output_first: bool = False, headings=ENGLISH) -> list[tuple[str, str]]:
    read = read_pairs(text, output_first=output_first, headings=headings)
    return [(one.input, one.output) for one, reason in read if reason is None]


@given(
    st.lists(st.tuples(CONTENTS | LETTERS, CONTENTS | LETTERS), min_size=1, max_size=3),
    st.sampled_from(PAIRS),
    st.sampled_from(SEPARATORS),
    st.sampled_from((1, 9)),
    st.sampled_from(("", "Sure! Here are some examples:\n\n", "Task: Say it.\n")),
    st.sampled_from(REMARKS),
)
def test_pairs_in_any_form_are_read_as_they_were(pairs, form, separator, number, before, behind):
    rows = [filled(form, n, i=i, o=o) for n, (i, o) in enumerate(pairs, number)]
    assert _read(before + separator.join(rows) + behind) == pairs


@given(
    st.lists(
        st.tuples(CONTENTS, st.sampled_from(("Positive", "Not spam"))), min_size=1, max_size=3
    ),
    st.sampled_from(LABELLED),
    st.sampled_from(SEPARATORS),
    st.sampled_from((1, 9)),
    st.sampled_from(("", "Here is one for each label:\n\n")),
)
def test_labelled_pairs_in_any_form_are_read_as_they_were(pairs, form, separator, number, before):
    rows = [filled(form, n, i=i, o=o) for n, (i, o) in enumerate(pairs, number)]
    assert _read(before + separator.join(rows), output_first=True) == pairs


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=3), st.sampled_from(PAIRS))
def test_an_answer_in_a_quote_or_a_fence_is_read_as_without(pairs, form):
    rows = [filled(form, n, i=i, o=o) for n, (i, o) in enumerate(pairs, 1)]
    text = "\n\n".join(rows)
    assert _read("\n".join(f"> {row}" for row in text.split("\n"))) == pairs
    assert _read(f"```\n{text}\n```") == pairs
    assert _read(f"Here:\n\n```markdown\n{text}\n```\nDone.") == pairs


def test_a_fence_that_lacks_its_end_holds_no_other_example():
    fences = ("```\nx\n```", "```python\nx\n```", "```markdown\n```bash\nx\n```\ny\n```")
    for first, second in product(fences, fences):
        for lacking in (first.removesuffix("\n```"), first):
            rows = [f"Example 1\nOutput:\n{lacking}", f"Example 2\nOutput:\n{second}"]
            assert _read("\n\n".join(rows)) == [("", lacking), ("", second)]
        text = f"Example 1\nOutput:\n{first}\n\nExample 2\nOutput:\n{second}"
        assert _read(f"````markdown\n{text}\n````") == [("", first), ("", second)]


@pytest.mark.parametrize(
    ("text", "headings", "pairs"),
    [
        ("示例 1\n输入：二加三\n输出：五\n示例 2\n输入：一\n输出：二", CHINESE,
         [("二加三", "五"), ("一", "二")]),
        ("**示例一：**\n**输入：**二加三\n**输出：**五", CHINESE, [("二加三", "五")]),
        ("【输入】二加三\n【输出】五", CHINESE, [("二加三", "五")]),
        ("示例1：\n输入：无\n输出：五", CHINESE, [("", "五")]),
        ("**Beispiel 1**\n**Eingabe:** a\n**Ausgabe:** b", GERMAN, [("a", "b")]),
        ("Beispiel 1\nEingabe: a\nAusgabe: b\nExample 2\nOutput: c", GERMAN,
         [("a", "b"), ("", "c")]),
    ],
)  # fmt: skip
def test_headings_of_other_languages_and_full_width_forms(text, headings, pairs):
    assert _read(text, headings=headings) == pairs


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("**Example:**\n**Input:** a\n**Output:** b", [("a", "b")]),
        ("Example One\nInput: a\nOutput: b\nExample Two\nOutput: c", [("a", "b"), ("", "c")]),
        ("Example 1\nTask: x\nInput: a\nOutput: b\n\nExample 2\nTask: x\nInput: c\nOutput: d",
         [("a", "b"), ("c", "d")]),
        ("Input:\n    def f():\n        pass\nOutput: b", [("def f():\n    pass", "b")]),
        ("Input: a\nOutput: It is.\nClass label: Spam", [("a", "It is.\nClass label: Spam")]),
        ("Input: a\nOutput: b\n\n希望这些示例对你有帮助！", [("a", "b")]),
    ],
)  # fmt: skip
def test_pairs_as_models_write_them(text, pairs):
    assert _read(text) == pairs
    assert _read(text.replace("\n", "\r\n")) == pairs


def test_labels_in_another_language():
    text = "类别：正面\n输入：好\n类别：负面\n输入：坏"
    assert _read(text, output_first=True, headings=CHINESE) == [("好", "正面"), ("坏", "负面")]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("just text", [("", "just text", "no_instance")]),
        ("Input: a\nOutput: b\nInput: c\nOutput: d",
         [("a", "b", None), ("", "Input: c\nOutput: d", "further_pair")]),
        ("Output: b\nOutput: d", [("", "b", None), ("", "Output: d", "further_pair")]),
        ("Output 1: b\nOutput 2: d", [("", "b", None), ("", "d", None)]),
        ("Example 1\nInput: foo", [("foo", "", "no_output")]),
        ("Example 1\nInput: foo\n\nExample 2\nInput: a\nOutput: b",
         [("foo", "", "no_output"), ("a", "b", None)]),
        ("Example 1\nThe Nile.\nExample 2\nThe Elbe.", [("", "The Nile.", None),
                                                     ("", "The Elbe.", None)]),
        ("Input: a\nInput: b\nOutput: c", [("a\nb", "c", "second_input")]),
        ("a cat\nOutput: meow", [("a cat", "meow", None)]),
        ("Here it is:\nOutput: meow", [("", "Here it is:", "preamble"), ("", "meow", None)]),
        ("Output: b\n\nTask: Other.\nInput: q\nOutput: r",
         [("", "b", None), ("", "Task: Other.\nInput: q\nOutput: r", "another_task")]),
        ("Output: b\n\nLet me know if you need more!",
         [("", "b", None), ("", "Let me know if you need more!", "remark")]),
        ("Output:\nExample 1", [("", "", None)]),
    ],
)  # fmt: skip
def test_what_is_no_instance_says_why(text, read):
    found = read_pairs(text, output_first=False, headings=ENGLISH)
    assert [(one.input, one.output, reason) for one, reason in found] == read


def test_only_what_ends_an_answer_speaks_to_whoever_asked():
    letter, label = (
        "Hi Jo,\n\nIt is at 3.\n\nLet me know if you have any questions.",
        "Class label: A",
    )
    text = f"Example 1\nInput: {letter}\nOutput: {letter}\nExample 2\nOutput: b"
    assert _read(text) == [(letter, letter), ("", "b")]
    assert _read(f"Output: {letter}\n\nI hope this example helps!") == [("", letter)]
    note = letter.removeprefix("Hi Jo,\n\n")
    short, _, remark = note.rpartition("\n\n")
    assert read_pairs(f"Output: {note}", output_first=False, headings=ENGLISH) == [
        (Instance("", short), None),
        (Instance("", remark), "remark"),
    ]
    text = f"{label}\nInput: {note}\n\n{label}\nInput: {note}"
    assert _read(text, output_first=True) == [(note, "A"), (short, "A")]
    assert _read(f"Output: {note}\nOutput: b") == [("", note)]


def test_an_input_that_says_why_there_is_none_is_empty():
    text = "Example {}\nInput: {}\nOutput: {}"
    said = ("None (no input needed)", "None (no input needed)", "None of the above")
    rows = [text.format(n, one, f"It is {n}.") for n, one in enumerate(said, 1)]
    read = [("", "It is 1."), ("", "It is 2."), ("None of the above", "It is 3.")]
    assert _read("\n\n".join(rows)) == read


LISTED = "Say whether n is one.\n\nExample 1:\nIn: 1\n\nExample 2:\nIn: 2\n\nExample 3:\nIn: 3"
NOTE = "An outcast.\nExample: He is one."


@given(
    st.lists(st.tuples(SENTENCES, st.sampled_from((LISTED, NOTE))), min_size=1, max_size=3),
    st.sampled_from([form for form in PAIRS if "Input" in form and "Example" in form]),
    st.sampled_from((1, 9)),
    st.booleans(),
)
def test_a_text_may_list_examples_whatever_the_form(pairs, form, number, of_input):
    pairs = [pair[::-1] if of_input else pair for pair in pairs]
    rows = [filled(form, n, i=i, o=o) for n, (i, o) in enumerate(pairs, number)]
    assert _read("\n\n".join(rows)) == pairs


def test_examples_that_an_output_lists_begin_no_other():
    listed = "Two.\n\nExample 1:\nfoo\n\nExample 2:\nbar\n\nExample 3:\nbaz"
    text = "Example {}\nInput: {}\nOutput: {}"
    rows = [text.format(n, one, listed) for n, one in enumerate("abc", 1)]
    assert _read("\n\n".join(rows)) == [(one, listed) for one in "abc"]
    rows = [f"{n}. Input: {one}\n   Output: {listed}" for n, one in enumerate("abc", 7)]
    assert _read("\n\n".join(rows)) == [(one, listed) for one in "abc"]
    rows = [text.format(1, "a", "b"), "Example 2\nfoo", f"Example 3\nThe Nile.\nOutput: {listed}"]
    assert read_pairs("\n\n".join(rows), output_first=False, headings=ENGLISH) == [
        (Instance("a", "b"), None),
        (Instance("", "foo"), "no_output"),
        (Instance("The Nile.", listed), None),
    ]


def test_a_second_input_below_a_label_is_left_out():
    text = "Class label: A\nInput: x\nInput: y\nClass label: B\nInput: z"
    assert read_pairs(text, output_first=True, headings=ENGLISH) == [
        (Instance("x", "A"), None),
        (Instance("", "Input: y"), "further_pair"),
        (Instance("z", "B"), None),
    ]


@pytest.mark.parametrize("last", ["Example 2\nInput: c\nOutput: d", "Example 2\nInput: c\nOut"])
def test_the_last_instance_of_an_answer_that_was_cut_off_is_unfinished(last):
    read = read_pairs(
        f"Example 1\nInput: a\nOutput: b\n{last}",
        output_first=False,
        headings=ENGLISH,
        is_cut_off=True,
    )
    assert [reason for _, reason in read] == [None, "unfinished"]


@pytest.mark.parametrize(
    "content",
    [
        'def f(x):\n    """Add.\n\n    Example:\n    Input: 1\n    Output: 2\n    """',
        "def f():\n    # Output: 3\n    Input: 4",
        "A function has\n- Input: what goes in\n- Output: what comes out",
        "```python\n# Example\nInput: foo\nOutput: bar\n```",
        "Plants grow.\nExample: a fern.",
        "Two ways.\nExample 1: with a loop\nfoo",
        "The form says 'Input: 5 cm' twice.",
        "Let me know if you need more.\n\nBest wishes\nJo",
        "Usage:\n Input: foo\n Output: bar",
        "It calls itself.\n\n**Example 1:**\nfoo",
        "## How\n\n### Input",
    ],
)
def test_markers_inside_content_are_content(content):
    assert _read(f"Input: x\nOutput: {content}") == [("x", content)]
    if "what goes in" not in content:  # deeper than the only output there is
        assert _read(f"Example 1\nInput: {content}\nOutput: x") == [(content, "x")]


FRAGMENTS = st.lists(
    st.sampled_from(
        ["Example 1", "Example 2:", "Input:", "Output:", "**Input:** ", "### Output",
         "Class label: ", "\n", "\n\n", "\r\n", "  ", "- ", "1. ", "```", '"""', "**", "> ",
         "Task: ", "x", "N/A",
         "Input 2: ", "input: ", "---"]
    ) | st.text(max_size=3),
    max_size=30,
).map("".join)  # fmt: skip


@given(FRAGMENTS, st.booleans(), st.booleans())
def test_no_text_makes_the_reader_raise_and_no_heading_reaches_a_row(text, output_first, cut_off):
    read = read_pairs(text, output_first=output_first, headings=ENGLISH, is_cut_off=cut_off)
    for one, reason in read:
        assert one.input == one.input.strip()
        if reason is None:
            assert one.output == one.output.strip()
            for line in (*lines_of(one.input, ENGLISH), *lines_of(one.output, ENGLISH)):
                heading = line.heading
                assert not heading or heading.column or heading.name not in ("input", "output")
