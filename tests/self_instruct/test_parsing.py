"""Parsing: numbered lists, yes and no, instances; nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from ray_si.records import Instance
from ray_si.self_instruct.headings import Headings
from ray_si.self_instruct.parsing import (
    Candidate,
    parse_classification,
    parse_instances,
    parse_instructions,
    parse_joint,
    parse_marked,
    parse_turn,
    read_input,
    read_instances,
    read_output,
)

LIST = " Name a river.\n10. Tell a\n joke.\n11. Sort th"


def test_items_are_split_at_numbers_and_squeezed():
    assert [c.text for c in parse_instructions(LIST, "stop")] == [
        "Name a river.",
        "Tell a joke.",
        "Sort th",
    ]


def test_out_of_tokens_drops_the_last_item_or_all():
    last = parse_instructions(LIST, "length")
    assert [c.reason for c in last] == [None, None, "unfinished"]
    every = parse_instructions(LIST, "length", drop="all")
    assert [c.reason for c in every] == ["unfinished"] * 3


def test_sentence_case_is_the_originals():
    (item,) = parse_instructions(" write Python in PARIS.", "stop", sentence_case=True)
    assert item.text == "Write python in paris."


def test_chat_answers_that_begin_with_a_number_parse():
    assert [c.text for c in parse_instructions("9. One thing.\n10) Two things.", "stop")] == [
        "One thing.",
        "Two things.",
    ]


def test_numbers_inside_a_line_do_not_split():
    assert len(parse_instructions(" Compare 1. and 2. of the list.", "stop")) == 1


@pytest.mark.parametrize("text", ["", "  \n", "\n9. \n10. "])
def test_nothing_is_one_candidate_that_says_so(text):
    assert parse_instructions(text, "stop") == [Candidate(0, text, "empty_completion")]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" classification", True),
        ("Generation.", False),
        (" Yes", True),
        (" No", False),
        ("yes, it is", True),
        ("\n**No**", False),
        ("Classification: No", False),
        ("**Classification task:** No, it asks for a text.", False),
        ("Classification task? Yes", True),
        ("Classification. No further label is needed.", True),
        ("Classification:\nNo labels are named, but they can be.", True),
        ("classification: generation", True),
        ("Not sure", None),
        ("Yesterday", None),
        ("", None),
    ],
)
def test_classification_answers(text, answer):
    assert parse_classification(text) is answer


def test_input_first_with_examples():
    text = "Example 1\nInput: a\nOutput: b\nExample 2\nOutput: c"
    assert parse_instances(text, "stop", output_first=False) == [
        Instance("a", "b"),
        Instance("", "c"),
    ]


def test_input_first_without_examples():
    text = "Input: 2, 3\nOutput: 5"
    assert parse_instances(text, "stop", output_first=False) == [Instance("2, 3", "5")]
    assert parse_instances("Output: 42\n\n", "stop", output_first=False) == [Instance("", "42")]
    assert parse_instances("just text", "stop", output_first=False) == []


def test_output_first_takes_the_label_line_and_the_rest():
    text = "Class label: Spam\nEmail: You won!\nClass label: Ham\nHello,\nJo"
    assert parse_instances(text, "stop", output_first=True) == [
        Instance("Email: You won!", "Spam"),
        Instance("Hello,\nJo", "Ham"),
    ]
    assert parse_instances("no label", "stop", output_first=True) == []


def test_output_first_inputs_lose_their_heading():
    text = "Class label: Spam\nInput: You won!\nClass label: Ham\nInput 2: Hello,\nJo"
    assert parse_instances(text, "stop", output_first=True) == [
        Instance("You won!", "Spam"),
        Instance("Hello,\nJo", "Ham"),
    ]


@pytest.mark.parametrize("output_first", [True, False])
def test_out_of_tokens_drops_the_last_instance(output_first):
    text = "Class label: A\nx\nClass label: B\ny" if output_first else "Output: 1\n"
    whole = parse_instances(text, "stop", output_first=output_first)
    assert parse_instances(text, "length", output_first=output_first) == whole[:-1]


FRAGMENTS = st.lists(
    st.sampled_from(
        ["Example 1", "Input:", "Output:", "Class label:", "\n", " ", "9. ", "Yes", "é", "\x00",
         "\n三八、", "二十", "\n²) ", "٣", "\ninput ", "\noutput ", "One", "ſix", ":", "<think>"]
    )
    | st.text(max_size=5),
    max_size=20,
).map("".join)  # fmt: skip


@example("9. Name a river.\n三八、Write about it.", "stop")
@example("Example 1\ninput one: 3\noutput ſix: 4", "stop")
@given(FRAGMENTS, st.sampled_from(["stop", "length"]))
def test_no_text_makes_a_parser_raise(text, finish):
    for chat in (True, False):
        assert parse_instructions(text, finish, chat=chat)
        assert parse_joint(text, finish, chat=chat)
    parse_classification(text)
    for output_first in (True, False):
        for instance in parse_instances(text, finish, output_first=output_first):
            assert instance.input == instance.input.strip()
            assert instance.output == instance.output.strip()


GERMAN = Headings("Aufgabe", "Anweisung", "Beispiel", "Eingabe", "Ausgabe", "Klasse")
JOINT = (
    " Sort the list.\nInput: 3, 1\nOutput: 1. one\n2. three\n\nThat was it.\n\n"
    "10. Instruction: Name a river.\nInput: <noinput>\nOutput: Nile\n\n"
    "11. Instruction: Greet me."
)


def test_joint_items_are_told_by_their_heading_and_end_at_a_blank_line():
    found = parse_joint(JOINT, "stop")
    assert [item.text for item in found] == ["Sort the list.", "Name a river.", "Greet me."]
    assert [item.instance for item in found] == [
        Instance("3, 1", "1. one\n2. three"),
        Instance("", "Nile"),
        None,
    ]
    assert [item.position for item in found] == [0, 1, 2]


def test_joint_answers_in_a_chat_may_have_a_preamble_paragraphs_and_emphasis():
    text = "Sure! Here they are:\n\n1. **Instruction:** Name it.\n**Input:** a\n**Output:** b\n\nc"
    first, second = parse_joint(text, "stop", chat=True)
    assert first.reason == "preamble"
    assert (second.text, second.instance) == ("Name it.", Instance("a", "b\n\nc"))


def test_an_unfinished_joint_item_is_dropped_whole():
    assert [c.reason for c in parse_joint(JOINT, "length")] == [None, None, "unfinished"]
    assert parse_joint(" \n", "stop") == [Candidate(0, " \n", "empty_completion")]


def test_a_chats_preamble_and_farewell_are_no_tasks():
    text = "Here are two tasks:\n\n9. Name a river.\n10. Tell a\njoke.\n\nLet me know!"
    found = parse_instructions(text, "stop", chat=True)
    assert [(c.text, c.reason) for c in found] == [
        ("Here are two tasks:", "preamble"),
        ("Name a river.", None),
        ("Tell a joke.", None),
        ("Let me know!", "remark"),
    ]
    assert [c.reason for c in parse_instructions("Name a river.", "stop", chat=True)] == [None]


def test_numbers_of_other_scripts_split_without_a_space():
    text = " 写一首关于秋天的诗。\n2、翻译这个句子。\n3．列出三条河流。"
    assert [c.text for c in parse_instructions(text, "stop")] == [
        "写一首关于秋天的诗。",
        "翻译这个句子。",
        "列出三条河流。",
    ]


def test_headings_of_another_language_are_read_beside_the_english_ones():
    text = "Beispiel 1\nEingabe: a\nAusgabe: b\nExample 2\nOutput: c"
    found = parse_instances(text, "stop", output_first=False, headings=GERMAN)
    assert found == [Instance("a", "b"), Instance("", "c")]
    text = "Klasse: Positiv\nEingabe: Gut!\nClass label: Negativ\nSchade."
    found = parse_instances(text, "stop", output_first=True, headings=GERMAN)
    assert found == [Instance("Gut!", "Positiv"), Instance("Schade.", "Negativ")]
    assert parse_instances(text, "stop", output_first=True) == [Instance("Schade.", "Negativ")]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Klassifikation", True),
        ("generierung.", False),
        ("Klassifikationen", None),
        (" No", False),
    ],
)
def test_answers_in_another_language(text, answer):
    assert parse_classification(text, (" Klassifikation", " Generierung")) is answer


@given(
    st.lists(
        st.sampled_from(["1. Instruction:", "\nInput:", "\nOutput:", "\n\n", " ", "2. ", "none"])
        | st.text(max_size=4),
        max_size=20,
    ).map("".join),
    st.booleans(),
)
def test_joint_parsing_never_raises_and_gives_every_item_a_place(text, chat):
    found = parse_joint(text, "stop", chat=chat)
    assert [item.position for item in found] == list(range(len(found))) != []
    for item in found:
        assert item.reason == "empty_completion" or item.text == " ".join(item.text.split()) != ""
        assert item.instance is None or item.instance.output


THOUGHT = "<think>\nIdeas:\n1. Something about gardens.\nInput: a\nOutput: b\n"


def test_lines_of_a_thought_are_no_items():
    assert parse_instructions(f"{THOUGHT}</think>\n\n9. Name a river.", "stop", chat=True) == [
        Candidate(0, "Name a river.")
    ]
    (item,) = parse_joint(f"{THOUGHT}</think>\nInstruction: Go on.\nOutput: c", "stop", chat=True)
    assert (item.text, item.instance) == ("Go on.", Instance("", "c"))
    text = f"{THOUGHT}</think>\nExample 1\nInput: a cat\nOutput: meow"
    assert parse_instances(text, "stop", output_first=False) == [Instance("a cat", "meow")]


def test_an_unfinished_thought_has_a_reason_of_its_own():
    for finish in ("stop", "length"):
        (item,) = parse_instructions(THOUGHT, finish, chat=True)
        assert (item.reason, "gardens" in item.text) == ("unfinished_reasoning", True)
        (item,) = parse_joint(THOUGHT, finish, chat=True)
        assert item.reason == "unfinished_reasoning"
        (read,) = read_instances(THOUGHT, finish, output_first=False)
        assert (read[1], "gardens" in read[0].output) == ("unfinished_reasoning", True)
    found = parse_instructions(f"1. Name a river.\n{THOUGHT}", "length", drop="all")
    assert [item.reason for item in found] == [None, "unfinished_reasoning"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nThere are labels.\n</think>\n\nYes", True),
        ("No, there are none.\n</think>\n**Yes**", True),
        ("[THINK]yes[/THINK]No", False),
        ("<think>\nyes, it", None),
        ("Answer: No", False),
        ("The answer is **yes**.", True),
        ("<think></think>", None),
    ],
)
def test_a_class_is_read_behind_the_thought(text, answer):
    assert parse_classification(text) is answer


def test_tags_of_a_runs_own_are_read():
    text = "<plan>\n1. draft\n</plan>\n1. Name a river."
    assert [c.text for c in parse_instructions(text, "stop", tags=("plan",))] == ["Name a river."]


def test_a_remark_behind_the_last_item_is_what_is_unfinished():
    found = parse_instructions("9. Name a river.\n\nLet me kn", "length", chat=True)
    assert [item.reason for item in found] == [None, "remark"]


def test_the_original_rules_take_sentence_case_and_all_of_an_unfinished_completion_with_them():
    text = " write Python.\n9. Name a RIVER.\n10) Sing"
    assert parse_instructions(text, "stop", rules="original") == [
        Candidate(0, "Write python."),
        Candidate(1, "Name a river. 10) sing"),
    ]
    found = parse_instructions(text, "length", rules="original")
    assert [item.reason for item in found] == ["unfinished", "unfinished"]


@pytest.mark.parametrize(
    ("text", "finish_reason", "expected"),
    [
        (" Send it now.\n", "stop", ("Send it now.", None)),
        ("**Input:** Send it now.", "stop", ("Send it now.", None)),
        ("Eingabe: Los!", "stop", ("Los!", None)),
        ("**Input**\n\nSend it.\nNow.", "stop", ("Send it.\nNow.", None)),
        ("### Input\nSend it.", "stop", ("Send it.", None)),
        ("**Input: Send it.**", "stop", ("Send it.", None)),
        ("Input 1: Send it.", "stop", ("Send it.", None)),
        ("Here is a concrete input for the task:\n\nSend it.", "stop", ("Send it.", None)),
        ("Sure! Here's the text:\r\n\r\nInput:\r\nSend it.", "stop", ("Send it.", None)),
        ("**Here is an example:**\n\n```\nSend it.\n```", "stop", ("Send it.", None)),
        ("```text\nSend it.\n\nNow.\n```", "stop", ("Send it.\n\nNow.", None)),
        ("Send it.\n\nI hope this input helps you!", "stop", ("Send it.", None)),
        ("Here is a concrete input:", "stop", ("Here is a concrete input:", None)),
        ("None", "stop", ("", None)),
        ("", "stop", ("", None)),
        ("Send it now. And th", "length", ("Send it now. And th", "unfinished")),
        ("<think>Hm.</think>Send it.", "stop", ("Send it.", None)),
        ("<think>Hm.", "length", ("Hm.", "unfinished_reasoning")),
    ],
)  # fmt: skip
def test_an_input_is_read_alone(text, finish_reason, expected):
    assert read_input(text, finish_reason, headings=Headings(input="Eingabe")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Input",
        "Input 5 cm of tape.",
        "Input and output differ.",
        "Here is what we need for Friday:\n\n- chairs",
        "Of course, there is one catch:\n\nIt rains.",
        "Here is an example of it:\nfoo",
        "```python\nx = 1\n```",
        "```\na\n```\nand\n```\nb\n```",
        "Hi Jo,\n\nIt is at 3.\n\nPlease let me know if you have any questions.",
    ],
)
def test_an_input_that_looks_like_what_stands_around_one_is_whole(text):
    assert read_input(f"\n{text}\n", "stop") == (text, None)


def test_an_input_that_was_cut_off_may_end_with_its_last_sentence():
    cut = read_input('He said "Go." Then he', "length", cut_at_sentence=True)
    assert cut == ('He said "Go."', None)
    assert read_input("No end", "length", cut_at_sentence=True)[1] == "unfinished"


@given(st.text(), st.sampled_from(["stop", "length"]), st.booleans())
def test_no_text_is_too_odd_to_be_read_alone(text, finish_reason, cut):
    read_input(text, finish_reason, cut_at_sentence=cut)
    read_output(text, finish_reason)


def test_an_output_is_all_of_its_completion():
    assert read_output(" The Loire.\n", "stop") == ("The Loire.", None)
    assert read_output("The Lo", "length") == ("The Lo", "unfinished")
    assert read_output("<think>Hm.</think>\nInput: a", "stop") == ("Input: a", None)


def test_a_long_input_ends_with_the_last_sentence_within_so_many_words():
    text = "Hi Tom. I am so glad. That is a lot of words."
    for finish_reason in ("stop", "length"):
        cut = read_input(text, finish_reason, cut_at_sentence=True, max_words=6)
        assert cut == ("Hi Tom. I am so glad.", None)
    assert read_input("No end of it at all", "stop", max_words=3) == ("No end of it at all", None)
    assert read_input(text, "stop", max_words=100) == (text, None)


def test_a_title_before_a_name_ends_no_sentence():
    text = "We met Dr. Hall and Ms. Chen. Both work with Prof. Ito and"
    for finish_reason, max_words in (("length", None), ("stop", 11), ("length", 9)):
        cut = read_input(text, finish_reason, cut_at_sentence=True, max_words=max_words)
        assert cut == ("We met Dr. Hall and Ms. Chen.", None)


PLAN = "The tasks above are about food. None is a question.\n1. So it should be one."


@pytest.mark.parametrize(
    "marked",
    [
        f"{PLAN}\nInstruction: Name a river.",
        f"{PLAN}\n\n**Instruction:** Name a river.\n\nI hope this helps!",
        f"{PLAN}\n\n### Instruction:\n\nName a river.\nInput: none",
        "Instruction: Name a lake.\nToo easy.\nINSTRUCTION: Name a\nriver.\nOutput: The Nile.",
        f"<think>Instruction: Name a lake.</think>{PLAN}\nInstruction: Name a river.",
    ],
)
def test_an_instruction_is_what_stands_behind_its_last_heading(marked):
    found = parse_marked(marked, "stop")
    assert [item.text for item in found if item.reason is None] == ["Name a river."]
    assert {item.reason for item in found} <= {None, "remark"}


def test_an_input_below_a_marked_instruction_is_counted():
    text = "Instruction: Compute the tip.\nInput: a bill\nof 40 dollars\nOutput: 6 dollars"
    for finish_reason in ("stop", "length"):
        assert parse_marked(f"{PLAN}\n{text}", finish_reason) == [
            Candidate(0, "Compute the tip."),
            Candidate(1, "Input: a bill of 40 dollars Output: 6 dollars", "further_pair"),
        ]
    (item,) = parse_marked("Instruction: Sing.\nInput: N/A (no input needed)\nOutput: La", "stop")
    assert item == Candidate(0, "Sing.")


def test_an_unfinished_further_pair_leaves_its_task_whole():
    text = "Instruction: Add.\nInput: 1\nOutput: 2\nInput: 3\nOut"
    found = parse_joint(text, "length", chat=True)
    assert [(item.text, item.reason) for item in found] == [
        ("Add.", None),
        ("Input: 3 Out", "further_pair"),
    ]


def test_without_a_heading_a_plan_is_no_instruction():
    assert parse_marked(PLAN, "stop") == [Candidate(0, PLAN, "unmarked")]
    assert parse_marked(PLAN, "length") == [Candidate(0, PLAN, "unfinished")]
    assert parse_marked(" \n", "stop") == [Candidate(0, " \n", "empty_completion")]
    (cut,) = parse_marked(f"{PLAN}\nInstruction: Name a riv", "length")
    assert (cut.text, cut.reason) == ("Name a riv", "unfinished")
    (thought,) = parse_marked(f"<think>{PLAN}", "length")
    assert thought.reason == "unfinished_reasoning"


def test_the_heading_of_an_instruction_may_be_in_another_language():
    german = Headings(instruction="Aufgabe")
    found = parse_marked("Plan.\nAufgabe: Nenne einen Fluss.", "stop", headings=german)
    assert [item.text for item in found] == ["Nenne einen Fluss."]


def test_a_users_turn_is_one_instruction_whatever_its_form():
    text = "Sort these:\n\n1. b\n2. a\nInput: none"
    assert parse_turn(f"\n{text}\n", "stop") == [Candidate(0, text)]
    assert parse_turn(text, "length") == [Candidate(0, text, "unfinished")]
    assert parse_turn(" \n", "stop") == [Candidate(0, " \n", "empty_completion")]


def test_a_thought_is_no_part_of_a_turn_that_the_model_writes_as_its_user():
    thought = "The user will ask for a poem."
    turn = f"<think>{thought}</think>\n\nWrite a poem about rain."
    assert parse_turn(turn, "stop") == [Candidate(0, "Write a poem about rain.")]
    (cut,) = parse_turn(f"<think>{thought}", "length")
    assert cut.reason == "unfinished_reasoning"
