"""The paper's heuristics, each with a reason code, and optional ones for small models."""

from __future__ import annotations

import re
import string
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle

import regex

from ray_si.records import Instance
from ray_si.self_instruct.checks import failed_instance_check
from ray_si.self_instruct.parsing import Rules

KEYWORDS = (
    "image",
    "images",
    "graph",
    "graphs",
    "picture",
    "pictures",
    "file",
    "files",
    "map",
    "maps",
    "draw",
    "plot",
    "go to",
)
"""Words that ask for what a language model cannot see or do (paper's code)."""

PROGRAM_OPENINGS = ("Write a program",)
"""How instructions begin that ask for whole programs (paper's code)."""

UNSPACED = (
    r"\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Balinese}\p{Javanese}"
    r"\p{New_Tai_Lue}\p{Tai_Le}\p{Tai_Tham}\p{Tai_Viet}"
)
"""Scripts whose words no space parts (for a regex set), as `ray_si.dedup.scripts` has them."""

_LETTER = rf"[[\p{{L}}\p{{Nl}}]&&[{UNSPACED}]]"
_STACKED = rf"(?<=[\p{{InSC=Virama}}\p{{InSC=Invisible_Stacker}}]){_LETTER}"
_UNSPACED = {
    "auto": regex.compile(rf"{_LETTER}(?:[\p{{Mn}}\p{{Mc}}]|{_STACKED})*", regex.V1),
    "unicode": regex.compile(
        r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
    ),
}
"""What counts as a word where no space parts words, by the tokenizer of the ROUGE-L gate."""

_OPENINGS = frozenset(
    """
    according act adapt add advise analyze analyse annotate answer apologise apologize apply argue
    arrange ask assess assign balance begin brainstorm break build calculate categorise categorize
    change check choose cite clarify classify combine come comment compare compile complete compose
    compute condense consider continue contrast construct convert copy correct count create
    criticise criticize debug decide decode deduce define demonstrate describe design detect
    determine develop devise diagnose differentiate discuss distinguish divide draft edit elaborate
    eliminate encode entertain estimate evaluate examine expand explain express extract fill find
    fix flag format formulate generate give group guess help highlight identify illustrate improve
    include infer insert interpret introduce invent join judge judging justify keep label list
    locate make match measure mention modify multiply name neutralise neutralize offer order
    organise organize outline paraphrase pick place plan point predict prepare present prioritise
    prioritize produce prove proofread propose provide pull put quote rank rate read rearrange
    recalculate recommend reconcile record reduce refactor reformat reformulate render repair
    rephrase replace reply report reshape respond restate restructure retell return reverse review
    revise rework rewrite rhyme round say scale script select sentence set share sharpen shorten
    show simplify sketch solve sort specify split spell spot state substitute suggest summarize
    summarise supply tag teach tell think trace transcribe transform translate trim turn update use
    using verify work write
    what what's when where which who whom whose why how is are was were do does did can could
    should would will if given in for from imagine suppose based
    """.split()
)
"""First words of requests and questions."""

_ASKING_ABOUT = frozenset("after at by during on through to under until with".split())
_QUESTION_WORDS = frozenset("how what which whose".split())

_POINTS_AT_INPUT = re.compile(
    r"\b(?:the following|(?:this|these|those|given) \w+|"
    r"(?!(?:well|far|high|just|slightly|or|and) )\w+ (?:below|above)|"
    r"(?:the|each) (?:given )?(?:sentences?|paragraph|passage|text|words?|list|article|review|"
    r"email|e-mail|statements?|phrase|tweet|comment|code|poem|numbers|equation|expression|table|"
    r"dialogue|conversation|song|story|recipe|quote))\b(?! [\"'])|\bthis\s*:",
    re.IGNORECASE,
)
_REFERS_TO_TEXT = re.compile(
    r"\bthe following\b|\b\w+ (?:below|above)\b|\b(?:the|each|your|my|our|this|these|those|given)"
    r"(?: \w+)? (?:messages?|e-?mails?|letters?|notes?|posts?|paragraphs?|announcements?|notices?|"
    r"invitations?|drafts?|descriptions?|passages?|texts?|sentences?|reviews?|articles?|summary|"
    r"speech|list|statements?|phrases?|tweets?|comments?|code|poem|dialogue|conversation|quote)"
    r"\b(?! [\"'])",
    re.IGNORECASE,
)
_ANSWERS = frozenset(("yes", "no", "true", "false"))
_CHOICE = re.compile(
    r"\bor\b(?! not\b)|\bbetween\b.+\band\b|:.+,|[a-z]/[a-z]|\b(?:yes|no|true|false)\b", re.I
)
_YES_OR_NO = re.compile(
    r"(?:is|are|was|were|do|does|did|has|have|should|(?:can|could|will|would)(?! you\b))\b"
    r"|.*\bwhether\b|.*\b(?:decide|determine|tell(?: me)?|say|check|detect|predict|identify) if\b",
    re.I,
)
_SCAFFOLD = re.compile(r"\b(?:task|input|output|example ?\d+|class label|instruction)\s*:", re.I)
_PLACEHOLDER = re.compile(
    r"(?<![\w)\]])\[(?=\w)[^\]\d\[(){}=\"]{2,40}\]|<(?!module>)[a-z _]{2,30}>|_{3,}", re.IGNORECASE
)
"""In brackets, but no index, list or "<module>" of a program."""
_ECHOED = 4
_SENTENCE_END = re.compile(r"[.!?][\"')]?\s+(?=\S)")


def count_words(text: str, *, tokenizer: str = "reference") -> int:
    """Words as the ROUGE-L gate's tokenizer goes with.

    "reference": by white space. "auto": every letter of a script written without spaces (Han, kana,
    Thai, Lao, Khmer, Burmese ...) counts as one, with its marks; the rest by white space.
    "unicode": the same, and the marks of such scripts count too, as in earlier versions.
    """
    unspaced = _UNSPACED.get(tokenizer)
    letters = len(unspaced.findall(text)) if unspaced else 0
    if not unspaced or not letters:
        return len(text.split())
    others = unspaced.sub(" ", text).split()
    return letters + sum(any(letter.isalnum() for letter in word) for word in others)


def words_of(texts: Iterable[str], count: int, *, tokenizer: str = "reference") -> str:
    """So many words of the texts, as `count_words` has them, over and over if need be."""
    words = partial(count_words, tokenizer=tokenizer)
    taken: list[str] = []
    for text in cycle(" ".join(texts).split()):  # each has a word at least
        if count <= 0:
            break
        taken.append(_cut(text, count, words))
        count -= words(taken[-1])
    return " ".join(taken)


def _cut(text: str, count: int, words: Callable[[str], int]) -> str:
    """As much of a text without spaces as has so many words."""
    return text[: bisect_right(range(1, len(text) + 1), count, key=lambda end: words(text[:end]))]


@cache
def _any_of(keywords: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the keywords as whole words; in a script without spaces, wherever they stand."""

    def bounded(word: str) -> str:
        before = "" if _UNSPACED["unicode"].match(word[0]) else r"\b"
        after = "" if _UNSPACED["unicode"].match(word[-1]) else r"\b"
        return f"{before}{re.escape(word)}{after}"

    return re.compile("|".join(map(bounded, keywords)), re.IGNORECASE)


def instruction_reason(
    text: str,
    *,
    min_words: int = 4,
    max_words: int = 150,
    keywords: Sequence[str] = KEYWORDS,
    program_openings: Sequence[str] = PROGRAM_OPENINGS,
    ascii_start: bool = True,
    tokenizer: str = "reference",
) -> str | None:
    """Why the paper's heuristics refuse an instruction, or None.

    Codes: too_short, too_long (words as `count_words` has them), keyword, write_a_program (begins
    with one of ``program_openings``), leading_punctuation, leading_non_ascii (only with
    ``ascii_start``).
    """
    words = count_words(text, tokenizer=tokenizer)
    if words < min_words:
        return "too_short"
    if words > max_words:
        return "too_long"
    if keywords and _any_of(tuple(keywords)).search(text):
        return "keyword"
    if text.startswith(tuple(program_openings)):
        return "write_a_program"
    if text[0] in string.punctuation:
        return "leading_punctuation"
    if ascii_start and not text[0].isascii():
        return "leading_non_ascii"
    return None


def instruction_quality_reason(
    text: str, *, max_words: int = 30, is_classification: bool = False
) -> str | None:
    """Why an instruction looks like a small model's slip, or None. English only; not in the paper.

    Codes: several_sentences (more than two), unusual_opening (the last of them begins neither with
    a common task verb nor as a question; of two the first may tell what there is), no_full_stop,
    rambling (more than ``max_words`` words), placeholder,
    repeated_words (a word three times over, short words aside), no_labels (of a classification
    task: it neither names labels to choose from nor can be answered by yes or no).
    """
    sentences = _SENTENCE_END.split(text)
    if len(sentences) > 2:
        return "several_sentences"
    if not _asks(sentences[-1]):
        return "unusual_opening"
    words = re.findall(r"[a-z'-]+", text.lower())
    if text[-1] not in ".?!":
        return "no_full_stop"
    if len(text.split()) > max_words:
        return "rambling"
    if _PLACEHOLDER.search(text):
        return "placeholder"
    long_words = [word for word in words if len(word) > 3]
    if any(long_words.count(word) > 2 for word in set(long_words)):
        return "repeated_words"
    if is_classification and not (_CHOICE.search(text) or _YES_OR_NO.match(text)):
        return "no_labels"
    return None


def _asks(sentence: str) -> bool:
    """Whether a sentence begins as a request or a question; an adverb may precede it."""
    words = re.findall(r"[a-z'-]+", sentence.lower())[:2]
    if any(word in _OPENINGS for word in words[:1]):
        return True
    if len(words) < 2:
        return False
    first, second = words
    if first in _ASKING_ABOUT:
        return second in _QUESTION_WORDS
    return first.endswith("ly") and second in _OPENINGS


@dataclass(frozen=True)
class FilteredInstances:
    """What is kept of one instruction's instances, and what is not, with reasons."""

    kept: list[Instance]
    rejected: list[tuple[Instance, str]]


def instance_reason(instance: Instance, *, rules: Rules = "lines") -> str | None:
    """Why the paper's heuristics refuse an instance, or None.

    Codes: empty_output, input_is_output, ends_with_colon (the input or the output; a full-width
    one, too, which ``rules="original"`` does not know).
    """
    colons = (":",) if rules == "original" else (":", "：")
    if not instance.output:
        return "empty_output"
    if instance.input == instance.output:
        return "input_is_output"
    if instance.input.endswith(colons) or instance.output.endswith(colons):
        return "ends_with_colon"
    return None


def instance_quality_reason(
    instruction: str, instance: Instance, *, is_classification: bool = False
) -> str | None:
    """Why an instance looks like a small model's slip, or None. English only; not in the paper.

    Codes: scaffolding (pieces of the prompt's form inside the text), placeholder, echo (the output
    repeats the instruction or the input), loop (the output repeats itself), missing_input (the
    instruction points at an input that is not there, or it is a classification task),
    unknown_label (a classification task's output is not among the labels that the instruction
    lists, nor yes, no, true or false to what can be answered so).
    """
    both = f"{instance.input}\n{instance.output}"
    if _SCAFFOLD.search(both):
        return "scaffolding"
    if _PLACEHOLDER.search(both):
        return "placeholder"
    squeezed = instance.output.strip(" \"'.").lower()
    if squeezed in (instruction.strip(" .").lower(), instance.input.strip(" \"'.").lower()):
        return "echo"
    words = instance.output.lower().split()
    pairs = list(zip(words, words[1:], words[2:], strict=False))
    if len(pairs) > 8 and len(set(pairs)) < 0.7 * len(pairs):
        return "loop"
    if not instance.input and (is_classification or _POINTS_AT_INPUT.search(instruction)):
        return "missing_input"
    if is_classification and not _is_label(squeezed, instruction):
        return "unknown_label"
    return None


def refers_to_text(instruction: str) -> bool:
    """Whether an instruction is about a text that has to come with it. English only."""
    return bool(_REFERS_TO_TEXT.search(instruction))


def _is_label(answer: str, instruction: str) -> bool:
    if answer in _ANSWERS:
        named = answer in re.findall(r"\w+", instruction.lower())
        return named or (not _CHOICE.search(instruction) and bool(_YES_OR_NO.match(instruction)))
    # one of several: beside a comma, "or" and the like, or in quotation marks
    quote = "[\"'\u2018\u2019\u201c\u201d]"
    label = rf"{quote}?(?<!\w){re.escape(answer)}(?:e?s)?(?!\w){quote}?"
    listed = (
        rf"(?:[,:/(]|\b(?:or|and|either|between)\b)\s*(?:(?:an?|the)\s)?{label}"
        rf"|{label}\s*(?:[,/)]|\b(?:or|and)\b)|{quote}{re.escape(answer)}{quote}"
    )
    return bool(answer and re.search(listed, instruction, re.I))


def echoes(instruction: str, change: str) -> bool:
    """Whether what was to be a task rewritten says how it was to be rewritten.

    It begins with the same four words; Evol-Instruct refuses such tasks, too (arXiv 2304.12244).
    """
    begun = change.casefold().split()[:_ECHOED]
    return bool(begun) and instruction.casefold().split()[:_ECHOED] == begun


def filter_instances(
    instruction: str,
    instances: Sequence[Instance],
    *,
    limit: int = 5,
    quality: bool = False,
    is_classification: bool = False,
    rules: Rules = "lines",
    checks: Sequence[str] = (),
) -> FilteredInstances:
    """Apply the paper's instance filters in the original's order, keeping the first ``limit``.

    Refused one by one: see `instance_reason` (and `instance_quality_reason` with ``quality``), and
    the ``checks`` of inputs and answers by name.
    Then, if two of the rest share a non-empty input but differ in output, none is kept
    (conflicting_outputs); exact duplicates are dropped (duplicate), and what lies beyond ``limit``
    (over_limit). The original keeps a random choice of them instead of the first.

    With ``rules="original"`` what is left before ``limit`` equals what the original code leaves.
    """
    rejected: list[tuple[Instance, str]] = []
    valid: list[Instance] = []
    for instance in instances:
        reason = instance_reason(instance, rules=rules)
        if reason is None and quality:
            reason = instance_quality_reason(
                instruction, instance, is_classification=is_classification
            )
        for of_input in (True, False):
            reason = reason or failed_instance_check(
                checks, instruction, instance, of_input=of_input
            )
        if reason:
            rejected.append((instance, reason))
        else:
            valid.append(instance)
    outputs: dict[str, set[str]] = {}
    for instance in valid:
        outputs.setdefault(instance.input, set()).add(instance.output)
    if any(text and len(answers) > 1 for text, answers in outputs.items()):
        return FilteredInstances([], rejected + [(i, "conflicting_outputs") for i in valid])
    kept: list[Instance] = []
    for instance in valid:
        if instance in kept:
            rejected.append((instance, "duplicate"))
        elif len(kept) == limit:
            rejected.append((instance, "over_limit"))
        else:
            kept.append(instance)
    return FilteredInstances(kept, rejected)
