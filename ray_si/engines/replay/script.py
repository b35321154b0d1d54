"""What the scripted replay writes: a grammar of tasks, labels and instances, slips included."""

from __future__ import annotations

import random
import re
from typing import Literal

from ray_si.engines.base import Completion, Request
from ray_si.records import Prompt

_FRAMES = """
Describe how to prepare {t}
List five common mistakes people make with {t}
Write a short letter to a neighbour about {t}
Explain the history of {t}
Suggest three ways to save money on {t}
Summarize the main arguments for and against {t}
Compose a rhyming poem in honour of {t}
Compare two popular approaches to {t}
Invent a memorable slogan that advertises {t}
Outline a one-hour lesson that teaches {t}
What should a beginner know before trying {t}
Why has {t} become so popular
Estimate how much a family spends every year on {t}
Turn the notes below into a paragraph on {t}
Give a balanced opinion on {t}
Translate this announcement about {t} into simple French
Rewrite the following advice concerning {t}
Propose a weekend schedule built around {t}
Imagine you run a small shop for {t} and answer this complaint
Create a glossary of ten terms used in {t}
Draft an invitation to a workshop on {t}
Identify the risks hidden in {t}
Tell a bedtime story in which a fox discovers {t}
How would you measure progress in {t}
Correct the spelling in the paragraph concerning {t}
Recommend a book, a film and a song connected with {t}
Prepare interview questions for an expert in {t}
Convert the table of figures on {t} into bullet points
Name the equipment required for {t}
Find the odd one out among these words related to {t}
""".strip().splitlines()

_CLASSIFICATION_FRAMES = """
Decide whether the review of {t} is positive or negative
Label the message on {t} as spam or not spam
Is the statement regarding {t} true or false
Tell if the question concerning {t} is easy, medium or hard
Assign the headline mentioning {t} to news, sports or culture
Classify the tone of an e-mail discussing {t} as formal or informal
""".strip().splitlines()

_TOPICS = (
    """
sourdough bread|night trains|bird watching|home insulation|chess openings|tax returns|rock climbing
school lunches|solar panels|jazz piano|vegetable gardens|electric bicycles|public libraries
language exchange|job interviews|pottery|marathon running|video games|recycling|beekeeping
mountain weather|credit cards|street food|knitting|dog training|online courses|board games
medieval castles|coral reefs|sleep habits|small talk|remote work|water colours|first aid
tea ceremonies|city planning|folk dances|camping stoves|podcast editing|space telescopes
wedding speeches|car repairs|meditation|cheese making|stage fright|flea markets|snow clearing
calligraphy|volunteering|astronomy clubs|nutrition labels|bus timetables|ghost stories
rain barrels|typing speed|origami|choir singing|allergies|house plants|ferry crossings
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

_QUALIFIERS = """
for a class of curious ten-year-olds
without using any technical terms
in no more than sixty words
as if you were speaking on the radio
with one example from daily life
and mention a cost in euros
so that a busy manager understands it
using a table with three columns
in the style of a travel diary
and end with an open question
while keeping a cheerful tone
based on what is known since 1990
for somebody who has just moved abroad
in exactly four numbered steps
and warn about one frequent danger
from the point of view of a grandmother
for readers who dislike long sentences
and give reasons for every choice
with reference to two seasons
before the end of the coming week
as a dialogue between two friends
and add a surprising fact
when there is very little time
assuming a budget of fifty dollars
suitable for a printed leaflet
that would convince a sceptic
including advantages as well as drawbacks
in plain language with short headings
for people over seventy
and name three reliable sources
during a long winter evening
despite limited space at home
so it fits on a postcard
as part of a company newsletter
for an audience of engineers
and contrast it with the opposite view
""".strip().splitlines()

ScriptedText = tuple[str, Literal["stop", "length"]]
"""A text and its finish reason."""

_QUESTION = ("What", "Why", "How", "Is")


def write_answer(request: Request, rng: random.Random) -> Completion:
    """One scripted completion; ``rng`` is seeded from the request by the caller."""
    text, finish = {
        "instructions": _instructions,
        "joint": _joint,
        "classification": _classification,
        "input_first": _input_first,
        "output_first": _output_first,
        "input": _input,
        "answer": _answer,
    }[request.purpose](request, rng)
    labels = None
    if request.labels:
        labels = tuple(-0.1 if text.strip() == label.strip() else -2.4 for label in request.labels)
        text = request.labels[labels.index(max(labels))]
    return Completion(
        text,
        finish,
        prompt_tokens=len(_text(request.prompt).split()),
        completion_tokens=len(text.split()),
        label_logprobs=labels,
        mean_logprob=-rng.uniform(0.5, 2.5),
    )


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def _task(rng: random.Random) -> str:
    frames = _CLASSIFICATION_FRAMES if rng.random() < 0.2 else _FRAMES
    text = rng.choice(frames).replace("{t}", rng.choice(_TOPICS))
    text = f"{text} {rng.choice(_QUALIFIERS)}"
    return text + ("?" if text.startswith(_QUESTION) else ".")


def _instructions(request: Request, rng: random.Random) -> ScriptedText:
    asked = _text(request.prompt).rstrip()
    is_begun = request.continue_final_message or asked.endswith("Instruction:")
    if is_begun or asked.endswith("Plan:") or '"Instruction:"' in asked:
        return _one_instruction(rng, is_begun=is_begun)
    numbers = re.findall(r"^(\d+)\.", _text(request.prompt), re.MULTILINE)
    first = int(numbers[-1]) if numbers else 1
    slip = rng.random()
    if slip < 0.02:
        return "", "stop"
    items = [_task(rng) for _ in range(rng.randint(4, 8))]
    if slip < 0.06:
        items[-1] = "Draw a picture of it."
    elif slip < 0.10:
        items[-1] = "No idea."
    lines = [f" {items[0]}"] + [f"{first + i}. {item}" for i, item in enumerate(items[1:], 1)]
    text = "\n".join(lines)
    if slip > 0.9:
        return text[: -rng.randint(5, 20)], "length"
    return text, "stop"


def _one_instruction(rng: random.Random, *, is_begun: bool) -> ScriptedText:
    """A task; where its heading is not there yet, behind that and a plan, or a plan alone."""
    text, slip = f" {_task(rng)}", rng.random()
    if not is_begun:
        plan = f" {_sentence(rng)}"
        if slip < 0.05:
            return plan, "stop"
        text = f"{plan}\nInstruction:{text}"
    return (text[: -rng.randint(5, 20)], "length") if slip > 0.9 else (text, "stop")


def _joint(request: Request, rng: random.Random) -> ScriptedText:
    numbers = re.findall(r"^(\d+)\. \w+:", _text(request.prompt), re.MULTILINE)
    first = int(numbers[-1]) if numbers else 1
    slip = rng.random()
    if slip < 0.02:
        return "", "stop"
    items = []
    for _ in range(rng.randint(2, 5)):
        lines, inner = [_task(rng)], rng.random()
        if inner < 0.5:
            lines.append(f"Input: {_sentence(rng)}")
        if inner > 0.1:  # else the output is forgotten
            lines.append(f"Output: {_sentence(rng)}")
        items.append("\n".join(lines))
    text = f" {items[0]}" + "".join(
        f"\n\n{first + i}. Instruction: {item}" for i, item in enumerate(items[1:], 1)
    )
    return (text[: -rng.randint(5, 20)], "length") if slip > 0.9 else (text, "stop")


def _asked(request: Request) -> str:
    """The last line that has a text after a heading, in whatever language; else the last line."""
    text = _text(request.prompt).strip()
    headed = re.findall(r"^\w+: (.*\S.*)$", text, re.MULTILINE)
    return str(headed[-1] if headed else text.splitlines()[-1])


def _classification(request: Request, rng: random.Random) -> ScriptedText:
    if len(request.labels) > 2:  # grades
        return rng.choice(request.labels), "stop"
    pattern = r"whether|true or false|spam|\bor (?:negative|hard|culture|informal)\b"
    yes, no = request.labels or (" Yes", " No")
    return (yes if re.search(pattern, _asked(request)) else no), "stop"


def _sentence(rng: random.Random) -> str:
    topic, qualifier = rng.choice(_TOPICS), rng.choice(_QUALIFIERS)
    return f"Much has been said on {topic}, {qualifier}."


def _input_first(request: Request, rng: random.Random) -> ScriptedText:
    slip = rng.random()
    if slip < 0.03:
        return "I would rather not say.", "stop"
    if slip < 0.06:
        return "Input: The same text.\nOutput: The same text.", "stop"
    if slip < 0.5:
        return f"Output: {_sentence(rng)}", "stop"
    parts = [
        f"Example {i}\nInput: {_sentence(rng)}\nOutput: {_sentence(rng)}"
        for i in range(1, rng.randint(2, 4))
    ]
    return "\n".join(parts), "length" if slip > 0.95 else "stop"


def _output_first(request: Request, rng: random.Random) -> ScriptedText:
    if rng.random() < 0.05:
        return "It depends.", "stop"
    found = re.search(r"(\w+), (\w+) or (\w+)|(\w+) or (not \w+|\w+)", _asked(request))
    labels = [g for g in found.groups() if g] if found else ["yes", "no"]
    parts = [f"Class label: {label.capitalize()}\nInput: {_sentence(rng)}" for label in labels]
    return "\n".join(parts), "stop"


def _input(request: Request, rng: random.Random) -> ScriptedText:
    slip = rng.random()
    if slip < 0.5 and not request.continue_final_message:
        return "None", "stop"
    return _sentence(rng), "length" if slip > 0.95 else "stop"


def _answer(request: Request, rng: random.Random) -> ScriptedText:
    slip = rng.random()
    if slip < 0.03:
        return "", "stop"
    return _sentence(rng), "length" if slip > 0.95 else "stop"
