"""Numbered lists and whole tasks: rendered in every form, they are read as what they were."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ray_si.records import Instance
from ray_si.self_instruct.headings import ENGLISH, heading_of, item_number
from ray_si.self_instruct.numbered import Item, read_list, read_tasks

from .answer_forms import (
    CHINESE,
    CONTENTS,
    LETTERS,
    NUMBERED,
    REMARKS,
    SENTENCES,
    SEPARATORS,
    TASKS,
    filled,
)

INNER = st.lists(SENTENCES, min_size=2, max_size=4)


def _read(text: str, *, chat: bool = True, headings=ENGLISH) -> list[str]:
    return [i.text for i in read_list(text, chat=chat, headings=headings) if i.reason is None]


@given(
    st.lists(SENTENCES, min_size=1, max_size=5),
    st.sampled_from(NUMBERED),
    st.sampled_from(SEPARATORS),
    st.sampled_from((1, 9)),
    st.sampled_from(("", "Sure! Here are some tasks:\n\n", "Here are the new tasks:\n")),
    st.sampled_from(REMARKS),
)
def test_a_list_in_any_form_is_read_as_its_items(items, form, separator, first, before, behind):
    rows = [form.format(number, item) for number, item in enumerate(items, first)]
    assert _read(before + separator.join(rows) + behind) == items


@pytest.mark.parametrize(
    "mark", "\u200e\u200f\u061c\u202a\u202b\u202e\u2066\u2069\u200b\u2060\ufeff"
)
def test_a_mark_that_cannot_be_seen_hides_no_number_and_no_heading(mark):
    """Models direct the lines of Arabic and Hebrew lists by them."""
    listed = f"1. اذكر نهرا.\n{mark}2. اذكر مدينة.\n {mark}3. اذكر جبلا."
    assert _read(listed) == ["اذكر نهرا.", "اذكر مدينة.", "اذكر جبلا."]
    tasks = f"{mark}Instruction: Add.\nInput: 1 2\n{mark}Output: 3\n{mark}Instruction: Sing."
    read, plain = (
        read_tasks(text, chat=True, headings=ENGLISH) for text in (tasks, tasks.replace(mark, ""))
    )
    assert read == plain
    assert [item.text for item in read] == ["Add.", "Sing."]


@given(st.lists(SENTENCES, min_size=1, max_size=5), st.sampled_from(("{}. {}", "{}) {}")))
def test_a_completion_goes_on_with_the_first_items_text(items, form):
    rows = [form.format(number, item) for number, item in enumerate(items, 9)]
    text = "\n".join(rows).removeprefix(form.format(9, ""))
    assert _read(f" {text}", chat=False) == items


@given(
    st.lists(st.tuples(SENTENCES, INNER | st.none()), min_size=1, max_size=4),
    st.sampled_from(("   {}. {}", "\t{}) {}", "{}. {}", "({}) {}", "   - {1}", "* {1}")),
    st.sampled_from((1, 9)),
)
def test_a_list_inside_an_item_stays_there(items, form, first):
    rows, expected = [], []
    for number, (text, inner) in enumerate(items, first):
        if inner:
            text = f"{text} Order these:"
            lines = [form.format(k, part) for k, part in enumerate(inner, 1)]
            # without indentation "3." may as well be the third item
            inner_ends = form[0] in " \t*(" or number + 1 > len(inner) or number == 1
            if not inner_ends or (number == 1 and form[0] == "{"):
                lines = [f"  {line}" for line in lines]
            rows.append("\n".join([f"{number}. {text}", *lines]))
            expected.append(" ".join(" ".join([text, *lines]).split()))
        else:
            rows.append(f"{number}. {text}")
            expected.append(text)
    assert _read("\n".join(rows)) == expected


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("9. Order:\n1. Boil.\n2. Pour.\n10. Sing.", ["Order: 1. Boil. 2. Pour.", "Sing."]),
        ("1. Order.\n1) Boil.\n2) Pour.\n2. Sing.", ["Order. 1) Boil. 2) Pour.", "Sing."]),
        ("1. Sort:\n\n   1. a\n\n   2. b\n\n2. Sing.", ["Sort: 1. a 2. b", "Sing."]),
        ("1. Pick:\na) x\nb) y\n2. Sing.", ["Pick: a) x b) y", "Sing."]),
        ("1. a b\n1. c d\n1. e f", ["a b", "c d", "e f"]),
        ("9. a b\n11. c d\n12. e", ["a b", "c d", "e"]),
        ("9. a b\n 10. c d\n 11. e f", ["a b", "c d", "e f"]),
        ("1. Read:\n```\n1. x\n\n2. y\n```\n2. Sing.", ["Read: ``` 1. x 2. y ```", "Sing."]),
        ("```\n1. a b\n2. c d\n```", ["a b", "c d"]),
        ("```markdown\n### 1. a b\n### 2. c d\n```\nDone.", ["a b", "c d"]),
        ("> 1. a b\n> 2. c d", ["a b", "c d"]),
        ("1. Say what happened in\n1989. Be brief.", ["Say what happened in 1989. Be brief."]),
        ("1. Add 2 and\n3.5 litres.\n2. Meet at\n10:30 pm.", ["Add 2 and 3.5 litres.",
                                                          "Meet at 10:30 pm."]),
        ("1. Write a poem\n   about rain.", ["Write a poem about rain."]),
        ("- a b\n- c\n  d", ["a b", "c d"]),
        ("9. **Poetry Analysis**: Analyze it.\n10. **Art of the Day:** Say it.\n"
         "11. **Rural Life** – Praise it.", ["Analyze it.", "Say it.", "Praise it."]),
        ("1. **Translate** the word.\n2. *Sum up*: it.\n3. **Say**: Hello You",
         ["Translate the word.", "Sum up: it.", "Say: Hello You"]),
        ("1. *args and **kwargs*\n2. **a** or **b**", ["*args and **kwargs*", "a or **b**"]),
        ("1. a b\n2. c d\nLet me know if you need more!", ["a b", "c d"]),
        ("一、写一首诗。\n二、解释。\n十一、好的。", ["写一首诗。", "解释。", "好的。"]),
        ("九、甲乙。\n三八、丙丁。\n十、戊己。", ["甲乙。 三八、丙丁。", "戊己。"]),
        ("1️⃣ a b\n2️⃣ c d", ["a b", "c d"]),
        ("٩. اكتب قصيدة\n١٠. اشرح", ["اكتب قصيدة", "اشرح"]),
        ("1.请写一首诗。\n2.请解释。\n\n希望有帮助！", ["请写一首诗。", "请解释。"]),
    ],
)  # fmt: skip
def test_lists_as_models_write_them(text, items):
    assert _read(text) == items
    assert _read(text.replace("\n", "\r\n")) == items


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("9", 9), ("１２", 12), ("٣１", 31), ("๑๒", 12), ("九", 9), ("十", 10), ("十九", 19),
        ("二十", 20), ("二十一", 21), ("三八", None), ("一二三", None), ("十一二", None),
        ("二十十", None), ("²", None), ("½", None), ("Ⅸ", None), ("1²", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_what_is_a_number_in_any_script_begins_an_item_and_nothing_else(written, value):
    number = item_number(f"{written}、x")
    assert (number and number.value) == value


def test_headings_of_another_language_number_items():
    text = "**任务1：** 请写一首诗。\n\n**任务2：** 请解释。"
    assert _read(text, headings=CHINESE) == ["请写一首诗。", "请解释。"]


def test_what_is_no_item_says_why():
    text = "Gladly:\n\n1. Sing.\n\nThat was the first.\n\n2. Dance.\n \nBye!"
    assert read_list(text, chat=True, headings=ENGLISH) == [
        Item("Gladly:", "preamble"),
        Item("Sing."),
        Item("That was the first.", "remark"),
        Item("Dance."),
        Item("Bye!", "remark"),
    ]
    assert read_list("Sing.\nDance.", chat=True, headings=ENGLISH) == [
        Item("Sing. Dance.", "unnumbered")
    ]
    assert read_list(" Sing\nand dance.", chat=False, headings=ENGLISH) == [Item("Sing and dance.")]


FRAGMENTS = st.lists(
    st.sampled_from(
        ["1. ", "\n2) ", "\n", "\n\n", "**", "### ", "Task 3:", "- ", "```", "Input: ", ":", " ",
         "\nInstruction: ", "\nOutput:", "> ", "\r\n", "3", "x",
         "\n三", "八", "十", "、", "）", "²", "٣", "\noutput ", "One", "ſix", "ONE:"]
    ) | st.text(max_size=3),
    max_size=25,
).map("".join)  # fmt: skip


@given(FRAGMENTS, st.booleans())
def test_no_text_makes_a_reader_raise_and_no_decoration_heads_an_item(text, chat):
    for item in read_list(text, chat=chat, headings=ENGLISH):
        assert item.text == " ".join(item.text.split()) != ""
        number, heading = item_number(item.text), heading_of(item.text, ENGLISH)
        assert not (number and number.rest)
        assert not (heading and heading.rest and heading.name in ("task", "instruction"))
    for item in read_tasks(text, chat=chat, headings=ENGLISH):
        assert item.instance is None or item.instance.output.strip() == item.instance.output != ""


@given(
    st.lists(
        st.tuples(SENTENCES, CONTENTS | LETTERS | st.just("<noinput>"), CONTENTS | LETTERS),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(TASKS),
    st.sampled_from(SEPARATORS),
    st.sampled_from((1, 9)),
    st.sampled_from(("", "Here you are:\n\n")),
    st.sampled_from(REMARKS),
)
def test_whole_tasks_in_any_form_are_read_as_they_were(
    tasks, form, separator, number, before, behind
):
    rows = [filled(form, n, t=t, i=i, o=o) for n, (t, i, o) in enumerate(tasks, number)]
    read = read_tasks(before + separator.join(rows) + behind, chat=True, headings=ENGLISH)
    assert [(item.text, item.instance) for item in read if item.reason is None] == [
        (t, Instance("" if i == "<noinput>" else i, o)) for t, i, o in tasks
    ]
    said = [item.text for item in read if item.reason == "remark"]
    assert said == ([behind.strip()] if behind else [])


def test_tasks_without_the_heading_of_their_instruction_begin_at_their_numbers():
    text = "1. Sort it.\nInput: 1. b\n2. a\nOutput: 1. a\n2. b\n\n2. Name a river.\nOutput: Nile"
    tasks = [
        Item("Sort it.", None, Instance("1. b\n2. a", "1. a\n2. b")),
        Item("Name a river.", None, Instance("", "Nile")),
    ]
    assert read_tasks(text, chat=True, headings=ENGLISH) == tasks
    text = (
        "9. Sort it.\n   Input: 1. b\n2. a\n   Output: 1. a\n2. b\n\n"
        "10. Name a river.\n    Output: Nile"
    )
    assert read_tasks(text, chat=True, headings=ENGLISH) == tasks


def test_what_follows_the_pair_of_a_task_is_left_out_with_a_reason():
    task = "Instruction: Add.\nInput: 1\nOutput: 2"
    more = "\nInput: 3\nOutput: 4\n"
    for text, chat in ((task + more, False), (task + more, True)):
        assert read_tasks(f"{text}\n{task}", chat=chat, headings=ENGLISH) == [
            Item("Add.", None, Instance("1", "2")),
            Item("Input: 3 Output: 4", "further_pair"),
            Item("Add.", None, Instance("1", "2")),
        ]


def test_the_last_line_of_an_output_stays_whatever_it_looks_like():
    text = "1. Instruction: Explain it.\nOutput: {}\n\n2. Instruction: Sing.\nOutput: La"
    for output in ("An outcast.\nExample: He is one.", "It is one.\nClass label: Spam"):
        first, second = read_tasks(text.format(output), chat=True, headings=ENGLISH)
        assert (first.instance, second.text) == (Instance("", output), "Sing.")


def test_a_task_with_two_inputs_says_so():
    (item,) = read_tasks("Add.\nInput: 1\nInput: 2\nOutput: 3", chat=False, headings=ENGLISH)
    assert (item.reason, item.instance) == ("second_input", None)


def test_a_fence_that_lacks_its_end_holds_no_other_task():
    rows = [
        "9. Instruction: Write it.\nOutput:\n```\nx",
        "10. Instruction: Go on.\nOutput:\n```\ny\n```",
    ]
    assert read_tasks("\n\n".join(rows), chat=True, headings=ENGLISH) == [
        Item("Write it.", None, Instance("", "```\nx")),
        Item("Go on.", None, Instance("", "```\ny\n```")),
    ]


def test_a_model_that_repeats_a_heading_without_end_ends_nothing():
    text = "Example 1\n" * 1500
    assert len(read_list(text, chat=True, headings=ENGLISH)) <= 1
    assert len(read_tasks(text, chat=True, headings=ENGLISH)) <= 1
