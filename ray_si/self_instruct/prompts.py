"""Renders the few-shot prompts: those in templates/, or a run's own, completion and chat style."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from ray_si.records import Instance, Message, Prompt
from ray_si.self_instruct.filters import refers_to_text
from ray_si.self_instruct.headings import ENGLISH, Headings

Style = Literal["completion", "chat"]

Method = Literal["list", "plan", "evolve", "template"]
"""How instructions are asked for: as a list goes on; or one at a time, after a plan for it, as
another task rewritten, or as the turn of a user that the chat template opens."""

REWRITES = (
    "Add one requirement or limit that the answer must keep to.",
    "Make it more specific: name a place, a person, a number or an occasion.",
    "Ask for something that takes one more step of thought.",
    "Ask for the reasons, causes or consequences as well.",
    "Keep the kind of task, but turn to a rarer subject.",
    "Ask for another kind of answer about the same subject.",
)
"""Ways to rewrite a task: four that make it harder, two that vary it."""

Inputs = Literal["asked", "user_turn"]
"""How an input is come by where it is asked apart from the output."""

LABELS = {"completion": (" classification", " generation"), "chat": ("Yes", "No")}
"""The continuations that are scored for "is it classification?", yes first."""

_LIST = frozenset({"demonstrations", "new", "first", "last"})
_ONE = frozenset({"instruction"})
_PLACEHOLDERS = {
    "instructions": _LIST,
    "instructions_classification": _LIST,
    "joint": _LIST,
    "joint_classification": _LIST,
    "classification": _ONE,
    "input_first": _ONE,
    "output_first": _ONE,
    "topic": frozenset({"topic"}),
    "plan": frozenset({"demonstrations"}),
    "evolve": frozenset({"instruction", "change"}),
}
"""Kind of template -> what it may hold in braces."""

_NEEDED = {"demonstrations", "instruction", "topic", "change"}
_IN_BRACES = re.compile(r"\{(\w+)\}")

_CHAT_ONLY = {"input": _ONE, "user_turn": _ONE, "turn_topic": frozenset({"topic"})}
_COMPLETION_ONLY = {"instructions_with_input": _LIST}
"""The same of the kinds that only one style has a template for."""

TEMPLATES = (
    *(f"{style}_{kind}" for style in get_args(Style) for kind in _PLACEHOLDERS),
    *(f"chat_{kind}" for kind in _CHAT_ONLY),
    *(f"completion_{kind}" for kind in _COMPLETION_ONLY),
)
"""Names of all templates."""

Templates = Mapping[str, str]
"""Template texts by name; ours stand in for those that are missing."""

_OURS: Templates = {}


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt and the strings at which its completion should end.

    With ``continue_final_message`` its last turn is left open, and the completion goes on with it.
    """

    prompt: Prompt
    stop: tuple[str, ...]
    continue_final_message: bool = False


@dataclass(frozen=True)
class Example:
    """A task as it stands in a prompt; without an instance it is an instruction alone."""

    instruction: str
    instance: Instance | None = None


@cache
def our_template(name: str) -> str:
    """The text of one of `TEMPLATES` as it comes with ray_si."""
    return files(__package__).joinpath("templates", f"{name}.txt").read_text(encoding="utf-8")


def templates_in_use(
    given: Templates,
    *,
    style: Style,
    later_style: Style | None = None,
    joint: bool = False,
    method: Method = "list",
    classification_share: float = 0.0,
    ask_class: bool = True,
    openings: Sequence[str] = (),
    topics: bool = False,
    inputs: Inputs | None = None,
) -> dict[str, str]:
    """The templates that a run renders, by name: its own where ``given``, else ours.

    ``method`` is that of instructions, ``later_style`` that of phases 2 and 3, where it is another
    than ``style``. ``ask_class`` says whether the model is asked which instructions are
    classification tasks; ``openings`` are those of instructions, ``topics`` whether they have any,
    and ``inputs`` says how inputs are come by where they are asked apart from outputs. Raises
    ValueError for a name that is none of `TEMPLATES`, an empty text, an unknown placeholder or a
    missing one.
    """
    for name, text in given.items():
        _check(name, text)
    first = "joint" if joint else "instructions"
    names = [f"{style}_{first}"] if classification_share < 1 else []
    names += [f"{style}_{first}_classification"] if classification_share > 0 else []
    kinds = {refers_to_text(opening) for opening in openings}
    if True in kinds:
        names = [name for name in names if False in kinds] + [f"{style}_instructions_with_input"]
    if method != "list":
        names = [f"{style}_{method}"] if method != "template" else []
    if topics:
        names.append("chat_turn_topic" if method == "template" else f"{style}_topic")
    later_style = later_style or style
    later = ["classification"] if ask_class else []
    if inputs is None:
        later += ["input_first", "output_first"]
    elif later_style == "completion":
        later += ["input_first"]
    else:
        later += ["input" if inputs == "asked" else "user_turn"]
    names += [f"{later_style}_{kind}" for kind in later]
    return {name: given.get(name) or our_template(name) for name in names}


def _check(name: str, text: str) -> None:
    if name not in TEMPLATES:
        near = difflib.get_close_matches(name, TEMPLATES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TEMPLATES)}"
        raise ValueError(f"there is no template {name} ({hint})")
    if not text.strip():
        raise ValueError(f"the template {name} is empty")
    known = (_PLACEHOLDERS | _CHAT_ONLY | _COMPLETION_ONLY)[name.partition("_")[2]]
    found = set(_IN_BRACES.findall(text))
    for placeholder in sorted(found - known):
        names = ", ".join(f"{{{name}}}" for name in sorted(known))
        raise ValueError(f"{name} has an unknown placeholder {{{placeholder}}}; it knows {names}")
    for placeholder in _NEEDED & known - found:
        raise ValueError(f"{name} lacks the placeholder {{{placeholder}}}")


def _render(templates: Templates, name: str, **values: object) -> str:
    text = templates.get(name) or our_template(name)
    # in one pass, since what is put in may hold braces itself
    return _IN_BRACES.sub(lambda found: str(values[found[1]]), text.strip())


def _no_blank_lines(text: str) -> str:
    return "\n".join(line for line in text.strip().splitlines() if line.strip())


def _as_turn(text: str) -> list[Message]:
    return [{"role": "user", "content": text.strip()}]


def _joined_lines(text: str) -> str:
    return " ".join(text.split())


def instruction_prompt(
    demonstrations: Sequence[str],
    *,
    style: Style,
    classification_only: bool = False,
    new: int = 8,
    opening: str = "",
    topic: str = "",
    templates: Templates = _OURS,
) -> RenderedPrompt:
    """Ask for ``new`` further instructions after the numbered demonstrations.

    With an ``opening``, in completion style, the next one begins with these words already, and
    the completion ends with its line. What the template "topic" says of a ``topic`` stands below
    the demonstrations.

    Completion style ends with the next number, so the completion begins with its text; it stops
    where the number after the last wanted one would begin. Chat style asks in words. A colon at the
    end of a demonstration, behind which its input would stand, is left out.
    """
    numbered = _numbered(demonstrations) + _on_topic(topic, style, templates)
    kind = "instructions_classification" if classification_only else "instructions"
    if opening and refers_to_text(opening):
        kind = "instructions_with_input"
    first, last = len(demonstrations) + 1, len(demonstrations) + new
    values = {"demonstrations": numbered, "new": new, "first": first, "last": last}
    text = _render(templates, f"{style}_{kind}", **values)
    if style == "chat":
        return RenderedPrompt(_as_turn(text), (f"\n{last + 1}.",))
    if opening:
        return RenderedPrompt(f"{text}\n{first}. {opening}", ("\n",))
    return RenderedPrompt(f"{text}\n{first}.", ("\n\n", f"\n{last + 1}.", f"\n{last + 1} ."))


def plan_prompt(
    demonstrations: Sequence[str],
    *,
    style: Style,
    topic: str = "",
    templates: Templates = _OURS,
) -> RenderedPrompt:
    """Ask for a plan, and then for one further instruction behind the heading of one.

    As CoT-Self-Instruct (arXiv 2507.23751), in words of our own; `parse_marked` reads it.
    Demonstrations and ``topic`` stand as in `instruction_prompt`. Completion style shows how in
    the template, whose last line begins the plan; the completion ends with a blank line, or where
    another list or plan would begin.
    """
    numbered = _numbered(demonstrations) + _on_topic(topic, style, templates)
    text = _render(templates, f"{style}_plan", demonstrations=numbered)
    if style == "chat":
        return RenderedPrompt(_as_turn(text), ())
    return RenderedPrompt(text, ("\n\n", "\n1.", "\n" + text.splitlines()[-1]))


def rewrite_prompt(
    instruction: str,
    change: str,
    *,
    style: Style,
    topic: str = "",
    templates: Templates = _OURS,
) -> RenderedPrompt:
    """Ask for another task made of this one by a ``change``, behind the heading of an instruction.

    As Evol-Instruct (arXiv 2304.12244), in words of our own; `parse_marked` reads it. What the
    template "topic" says of a ``topic`` stands behind the change. Completion style ends with the
    heading, so the completion begins with the text, and ends with its line.
    """
    if topic:
        change = f"{change} {_render(templates, f'{style}_topic', topic=topic)}"
    values = {"instruction": _joined_lines(instruction), "change": change}
    text = _render(templates, f"{style}_evolve", **values)
    if style == "chat":
        return RenderedPrompt(_as_turn(text), ())
    return RenderedPrompt(text, ("\n",))


def turn_prompt(*, topic: str = "", templates: Templates = _OURS) -> RenderedPrompt:
    """Have the model write as the user, in a turn that is left open; `parse_turn` reads it.

    As Magpie (arXiv 2406.08464): the chat template and nothing else. What the template "turn_topic"
    says of a ``topic`` stands in a system turn before it.
    """
    turns: list[Message] = [{"role": "user", "content": ""}]
    if topic:
        text = _render(templates, "chat_turn_topic", topic=topic)
        turns.insert(0, {"role": "system", "content": text})
    return RenderedPrompt(turns, (), continue_final_message=True)


def joint_prompt(
    demonstrations: Sequence[Example],
    *,
    style: Style,
    classification_only: bool = False,
    new: int = 8,
    topic: str = "",
    templates: Templates = _OURS,
    headings: Headings = ENGLISH,
) -> RenderedPrompt:
    """Ask for ``new`` further tasks, each with instruction, input and output, in one completion.

    As Alpaca did (github.com/tatsu-lab/stanford_alpaca), in a form of our own. Completion style
    ends with the next number and the heading of its instruction. A ``topic`` as in
    `instruction_prompt`.
    """
    numbered = "\n\n".join(
        f"{i}. {_with_headings(task, headings)}" for i, task in enumerate(demonstrations, 1)
    )
    numbered += _on_topic(topic, style, templates)
    kind = "joint_classification" if classification_only else "joint"
    first, last = len(demonstrations) + 1, len(demonstrations) + new
    values = {"demonstrations": numbered, "new": new, "first": first, "last": last}
    text = _render(templates, f"{style}_{kind}", **values)
    stop = (f"\n{last + 1}. {headings.instruction}:",)
    if style == "chat":
        return RenderedPrompt(_as_turn(text), stop)
    return RenderedPrompt(f"{text}\n\n{first}. {headings.instruction}:", stop)


def _numbered(demonstrations: Sequence[str]) -> str:
    texts = [_joined_lines(text).rstrip(":") for text in demonstrations]
    return "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))


def _on_topic(topic: str, style: Style, templates: Templates) -> str:
    """What follows the demonstrations where tasks on a topic are asked for."""
    return f"\n\n{_render(templates, f'{style}_topic', topic=topic)}" if topic else ""


def _with_headings(task: Example, headings: Headings) -> str:
    lines = [f"{headings.instruction}: {_joined_lines(task.instruction)}"]
    if task.instance:
        if task.instance.input.strip():
            lines.append(f"{headings.input}: {_no_blank_lines(task.instance.input)}")
        lines.append(f"{headings.output}: {_no_blank_lines(task.instance.output)}")
    return "\n".join(lines)


def classification_prompt(
    instruction: str, *, style: Style, templates: Templates = _OURS, headings: Headings = ENGLISH
) -> RenderedPrompt:
    """Ask whether the instruction is a classification task; one of `LABELS` begins the answer."""
    text = _render(templates, f"{style}_classification", instruction=_joined_lines(instruction))
    stop = ("\n", *_each("{}:", headings))
    return RenderedPrompt(_as_turn(text) if style == "chat" else text, stop)


def instance_prompt(
    instruction: str,
    *,
    style: Style,
    output_first: bool = False,
    templates: Templates = _OURS,
    headings: Headings = ENGLISH,
) -> RenderedPrompt:
    """Ask for instances of the instruction.

    Input-first writes the input and then the output. Output-first (for classification tasks)
    writes a class label and then an input for it, because models asked for inputs first write
    inputs of one label only (paper, section 2.2).
    """
    name = f"{style}_{'output_first' if output_first else 'input_first'}"
    text = _render(templates, name, instruction=_joined_lines(instruction))
    if style == "chat":
        return RenderedPrompt(_as_turn(text), ())
    stop = (*_each("\n{}:", headings), *_each("\n\n{}", headings), "\n\n\n")
    return RenderedPrompt(text + "\n", stop)


def input_prompt(
    instruction: str,
    *,
    style: Style,
    inputs: Inputs = "asked",
    demonstrations: Sequence[Example] = (),
    templates: Templates = _OURS,
    headings: Headings = ENGLISH,
) -> RenderedPrompt:
    """Ask for an input of the instruction, without the output; `read_input` reads it.

    Completion style shows the examples of ``completion_input_first`` and stops where the output
    would begin. ``user_turn`` tells the model in a system turn that it is an assistant with this
    task, and lets it write what the user sends, after the inputs and outputs of the
    ``demonstrations`` as earlier turns.
    """
    if style == "completion":
        text = _render(templates, "completion_input_first", instruction=_joined_lines(instruction))
        outputs = [f"{word}:" for word in dict.fromkeys((ENGLISH.output, headings.output))]
        return RenderedPrompt(text + "\n", (*outputs, *_each("\n{}:", headings), "\n\n"))
    kind = "input" if inputs == "asked" else "user_turn"
    text = _render(templates, f"chat_{kind}", instruction=_joined_lines(instruction))
    if inputs == "asked":
        return RenderedPrompt(_as_turn(text), ())
    turns = [{"role": "system", "content": text}]
    for shown in demonstrations:
        assert shown.instance is not None, "a demonstration without an input"
        turns += [*_as_turn(shown.instance.input), _answer_turn(shown.instance.output)]
    turns.append({"role": "user", "content": ""})
    return RenderedPrompt(turns, (), continue_final_message=True)


def answer_prompt(
    task: Example,
    *,
    style: Style,
    demonstrations: Sequence[Example] = (),
    templates: Templates = _OURS,
    headings: Headings = ENGLISH,
) -> RenderedPrompt:
    """Ask for the output of a task; its instance, where it has one, holds the input alone.

    Chat style asks as a user would, the input below the instruction after a blank line, and shows
    the ``demonstrations`` as earlier turns. Completion style goes on where the examples of
    ``completion_input_first`` end, and shows no others.
    """
    if style == "chat":
        turns = []
        for shown in demonstrations:
            assert shown.instance is not None, "a demonstration without an output"
            turns += [*_as_turn(_question(shown)), _answer_turn(shown.instance.output)]
        return RenderedPrompt([*turns, *_as_turn(_question(task))], ())
    text = _render(templates, "completion_input_first", instruction=_joined_lines(task.instruction))
    if task.instance and task.instance.input.strip():
        text += f"\n{headings.input}: {_no_blank_lines(task.instance.input)}"
    stop = (*_each("\n{}:", headings), *_each("\n\n{}", headings), "\n\n\n")
    return RenderedPrompt(f"{text}\n{headings.output}:", stop)


def _question(task: Example) -> str:
    text = task.instance.input.strip() if task.instance else ""
    return f"{task.instruction}\n\n{text}" if text else task.instruction


def _answer_turn(text: str) -> Message:
    return {"role": "assistant", "content": text.strip()}


def _each(pattern: str, headings: Headings) -> list[str]:
    """The pattern with the heading of a task, in English and in the run's language."""
    return [pattern.format(word) for word in dict.fromkeys((ENGLISH.task, headings.task))]
