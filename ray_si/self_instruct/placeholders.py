"""What a model writes in place of an input where a task needs none."""

from __future__ import annotations

import re

_NONE = (
    r"(?:(?:there is |this (?:task|instruction) (?:needs|requires|has) )?"
    r"(?:no[\W_]*(?:additional |specific |further |external |extra )?input|none)"
    r"(?: (?:is )?(?:needed|required|necessary|provided|given|applicable))?"
    r"(?: for this (?:task|instruction|example|one))?|n/?a|n\.a\.?|nil|null|"
    r"(?:is )?not (?:applicable|needed|required|necessary)|empty|blank|"
    r"无|無|没有|沒有|(?:无|無|没有|沒有|无需|不需要)(?:输入|輸入)|不适用|なし|無し|入力なし|없음|"
    r"해당 없음|kein[e]?(?: eingabe)?|nicht zutreffend|entfällt|ningun[oa]|no aplica|aucune?|"
    r"sans objet|nessun[oa]?|nenhum[a]?|não se aplica|нет|не требуется|отсутствует)"
)
"""A word for none, or that no input is needed, in the languages that models write."""

_KIND = r"(?:task|instruction|question|prompt|request|exercise|problem)"
_TASK = rf"(?:(?:the|this|that|given|current|above|\w+ing) ){{1,2}}{_KIND}"
_ANY = (
    r"(?:(?:an?|any|the|further|additional|specific|external|extra|other|explicit|particular|user)"
    r" )*inputs?(?: (?:text|data|value))?"
)
_NEEDED = r"(?:needed|required|necessary|applicable|provided)"
_NEEDS_NONE = (
    rf"(?: (?:does(?: not|n['’]t)|do(?: not|n['’]t)) (?:\w+ly )?"
    rf"(?:need|require|have|take|use|involve|call for|depend on|rely on) {_ANY}"
    rf"| (?:needs|requires|has|takes|calls for) no {_ANY}"
    rf"| (?:(?:can|could|may) be|is) \w+ without {_ANY})"
)
_ON_ITS_OWN = (
    r"(?:(?:an?|already|fully|entirely|completely) )*"
    rf"(?:self[- ]?contained|open[- ]?ended|stand[- ]?alone)(?: (?:\w+ )?{_KIND})?"
)
_WHY = (
    rf"(?:(?:{_TASK}|it){_NEEDS_NONE}"
    rf"|(?:there is )?no {_ANY} (?:(?:is|are|was) )?{_NEEDED}"
    rf"|{_ANY} (?:is|are) not {_NEEDED}"
    rf"|(?:(?:{_TASK}|this|it)(?: is|['’]s) )?{_ON_ITS_OWN}"
    r"|(?:(?:该|該)(?:任务|任務))?(?:无|無|没有|沒有|无需|不需要)(?:输入|輸入)|入力なし"
    r"|keine eingabe(?: (?:nötig|erforderlich|notwendig))?)"
)
"""Why there is none, as it stands behind a word for that; by itself it may be a text."""

_REST = (
    r"(?:[\W_]*|[\W_]*\b(?:as|because|since|so|for|and|beyond|other than)\b.{0,200}"
    r"|[\W_]*[.;:,(–—-].{0,200})"
)
_NO_INPUT = re.compile(
    rf"[\W_]*(?:{_NONE}[\W_]*"
    rf"|{_NONE}[\W_]+(?:(?:as|because|since|for) )?{_WHY}{_REST}"
    rf"|{_TASK}{_NEEDS_NONE}{_REST})",
    re.IGNORECASE,
)
_ONLY_MARKS = re.compile(r"(?:[-–—.…]|\.{3}|<\s*>|\[\s*\]|\(\s*\))?")


def is_placeholder(text: str) -> bool:
    """Whether an input says that there is none: "<noinput>", "N/A", "none", a dash, nothing.

    It may say why: "None (the task is self-contained)". Other text behind such a word is an input.
    """
    if _ONLY_MARKS.fullmatch(text) or _NO_INPUT.fullmatch(text):
        return True
    return _NO_INPUT.fullmatch(" ".join(re.sub("[*_`]+", " ", text).split())) is not None
