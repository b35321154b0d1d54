"""The forms in which models write lists and pairs, and texts to write in them."""

from __future__ import annotations

from hypothesis import strategies as st

from ray_si.self_instruct.headings import Headings

CHINESE = Headings("任务", "指令", "示例", "输入", "输出", "类别")
GERMAN = Headings("Aufgabe", "Anweisung", "Beispiel", "Eingabe", "Ausgabe", "Klasse")

NUMBERED = (
    "{}. {}", "{}) {}", "({}) {}", "{}: {}", "{}.{}", "{}){}", "{}:{}", "[{}] {}", "{} - {}",
    "{}.\t{}", "{} . {}", "{}.) {}", "{}\\. {}", "{}、{}", "{}．{}", "{}）{}", "{}.\n{}",
    "{}\u00a0. {}", "{}.\u00a0{}", "\u00a0{}. {}", "  {}. {}", "- {}. {}", "* {}. {}",
    "Task {}: {}", "Task {}. {}", "TASK {}: {}", "Task {}:\n{}", "Instruction {}: {}",
    "**{}.** {}", "**{})** {}", "__{}.__ {}", "**{}. {}**", "{}. **{}**", "{}. *{}*", "### {}. {}",
    "**Task {}:** {}", "### Task {}\n{}", "### Task {}\n\n{}", "## Task {}: {}",
    "【{}】{}", "{}- {}", "Task #{}: {}", "Task No. {}: {}", "🔹 {}. {}", "<h3>{}. {}</h3>",
    "{}. **Instruction:** {}", "{}. Task: {}", "* Task {}: {}",
)  # fmt: skip
"""Of an item with its number."""

PAIRS = (
    "Example {n}\nInput: {i}\nOutput: {o}",
    "Example {n}:\n\nInput:\n{i}\n\nOutput:\n{o}",
    "EXAMPLE {n}\nINPUT: {i}\nOUTPUT: {o}",
    "example {n}\ninput: {i}\noutput: {o}",
    "Example {n}.\nInput : {i}\nOutput : {o}",
    "Example #{n}\nInput\n{i}\nOutput\n{o}",
    "Example {n} Input: {i}\nOutput: {o}",
    "Example {n}: Input: {i}\nOutput: {o}",
    "Example {n} (easy)\nInput: {i}\nOutput: {o}",
    "Example {n}\n{i}\nOutput: {o}",
    "Example {n}: {i}\nOutput: {o}",
    "**Example {n}**\n**Input:** {i}\n**Output:** {o}",
    "**Example {n}:**\n**Input**: {i}\n**Output**: {o}",
    "**Example {n}**\n**Input: {i}**\n**Output: {o}**",
    "Example {n}\n*Input:* {i}\n*Output:* {o}",
    "Example {n}\n__Input:__ {i}\n__Output:__ {o}",
    "Example {n}\n`Input:` {i}\n`Output:` {o}",
    "Example {n}\n<b>Input:</b> {i}\n<b>Output:</b> {o}",
    "Example {n}\n[Input]: {i}\n[Output]: {o}",
    "### Example {n}\nInput: {i}\nOutput: {o}",
    "## Example {n}\n\n### Input\n\n{i}\n\n### Output\n\n{o}",
    "### Example {n}:\n#### Input:\n{i}\n#### Output:\n{o}",
    "### Example {n} ###\n📥 **Input:** {i}\n✅ **Output:** {o}",
    "=== Example {n} ===\nInput: {i}\nOutput: {o}",
    "--- Example {n} ---\nInput: {i}\nOutput: {o}",
    "<h3>Example {n}</h3>\n<strong>Input:</strong> {i}\n<strong>Output:</strong> {o}",
    "* Example {n}\n** Input\n{i}\n** Output\n{o}",
    "*** Example {n}\nInput: {i}\nOutput: {o}",
    "Example {n}\n- Input: {i}\n- Output: {o}",
    "- **Example {n}**\n- **Input:** {i}\n- **Output:** {o}",
    "• Example {n}\n• Input: {i}\n• Output: {o}",
    "Example {n}\n1. Input: {i}\n2. Output: {o}",
    "{n}. Input: {i}\n{w}Output: {o}",
    "{n}. **Input:** {i}\n{w}**Output:** {o}",
    "{n}.\n{w}Input: {i}\n{w}Output: {o}",
    "Example {n}\n{s}Input: {i}\nOutput: {o}",
    "{s}Example {n}\nInput: {i}\n{s}Output: {o}",
    "**{n}. Input:** {i}\n**Output:** {o}",
    "{n}.\nInput: {i}\nOutput: {o}",
    "{n})\nInput: {i}\nOutput: {o}",
    "Input {n}: {i}\nOutput {n}: {o}",
    "**Input {n}:** {i}\n**Output {n}:** {o}",
)
"""Of an example, its number, input and output; see `filled`."""

LABELLED = (
    "Class label: {o}\nInput: {i}",
    "Class label: {o}\n{i}",
    "Class label:\n{o}\nInput:\n{i}",
    "Class Label: {o}\nInput: {i}",
    "class label: {o}\ninput: {i}",
    "**Class label:** {o}\n**Input:** {i}",
    "Class label: **{o}**\nInput: {i}",
    "**Class label: {o}**\n**Input: {i}**",
    "### Class label: {o}\n\n{i}",
    "- Class label: {o}\n- Input: {i}",
    "* Class label: {o}\n** Input\n{i}",
    "{n}. Class label: {o}\n{w}Input: {i}",
    "{n}. Class label: {o}\n{w}{i}",
    "Example {n}\nClass label: {o}\nInput: {i}",
    "### Example {n}\n**Class label:** {o}\n**Input:** {i}",
    "Input {n}: {i}\nClass label {n}: {o}",
    "Example {n}\nInput: {i}\nClass label: {o}",
    "Example {n}\nInput: {i}\nOutput: {o}",
)
"""Of an example of a classification task."""

TASKS = (
    "{n}. Instruction: {t}\nInput: {i}\nOutput: {o}",
    "{n}. Instruction: {t}\n{w}Input: {i}\n{w}Output: {o}",
    "{n}. **Instruction:** {t}\n**Input:** {i}\n**Output:** {o}",
    "{n}. **Instruction:** {t}\n{w}- **Input:** {i}\n{w}- **Output:** {o}",
    "**{n}. Instruction:** {t}\n**Input:** {i}\n**Output:** {o}",
    "### Task {n}\n**Instruction:** {t}\n**Input:** {i}\n**Output:** {o}",
    "Task {n}:\n{s}Instruction: {t}\nInput: {i}\nOutput: {o}",
    "{n}.\nInstruction: {t}\nInput: {i}\nOutput: {o}",
    "Instruction {n}: {t}\nInput {n}: {i}\nOutput {n}: {o}",
    "* Instruction: {t}\n** Input\n{i}\n** Output\n{o}",
)
"""Of a whole task, its number, instruction, input and output."""


def filled(form: str, number: int, **texts: str) -> str:
    """A form with texts: ``{w}`` is as wide as the number, ``{s}`` a blank before every third."""
    width, stray = " " * (len(str(number)) + 2), " " * (number % 3 == 0)
    return form.format(n=number, w=width, s=stray, **texts)


SEPARATORS = ("\n", "\n\n", "\r\n", "\r\n\r\n", "\n \t\n", "\n---\n", "\n\n***\n\n")
"""Between items or examples."""

REMARKS = ("", "\n\nLet me know if you need more examples!", "\r\n \r\nI hope these tasks help.")
"""Behind the last."""

_WORDS = st.sampled_from(
    "tea rain Input Output: Example 3 1.5 a/b (c) [d] für 雨 नदी Nr. 2x3 `y` 7: for Task".split()
)
SENTENCES = st.lists(_WORDS, min_size=1, max_size=7).map(lambda words: f"Say {' '.join(words)} so.")
"""With markers inside, none at the beginning."""

_INSIDE = (
    "For Example, a fern does this.",
    "see the Input: above",
    "        Input: 5 cm",
    "        Example 1",
    "1. one\n2. two",
    "- a point",
    "```\nInput: x\nOutput: y\nExample 2\n```",
    '"""\nExample 1\n\nInput: x\n"""',
    'text = f"""\nOutput: x\n""")',
    'He says """ is a quote.',
    "```markdown\n# x\n```bash\nOutput: y\n```\nInput: z\n```",
    "",
)
CONTENTS = (
    st.builds(
        lambda first, lines, last: "\n".join([first, *lines, last]),
        SENTENCES,
        st.lists(st.sampled_from(_INSIDE) | SENTENCES, max_size=3),
        SENTENCES,
    )
    | SENTENCES
)
"""Inputs and outputs of one or several lines, with markers that are none."""

LETTERS = SENTENCES.map(lambda said: f"Hi Jo,\n\n{said}\n\nLet me know if you have any questions.")
"""They end as answers may that speak to whoever asked."""
