"""Words of any script, against a definition in one regular expression."""

from __future__ import annotations

import json
import random
import unicodedata
from importlib.metadata import distributions
from pathlib import Path

import pytest
import regex
from hypothesis import example, given, strategies as st
from rapidfuzz.distance import LCSseq

from ray_si.dedup import Deduplicator, RougeIndex
from ray_si.dedup.rouge import rouge_l
from ray_si.dedup.scripts import UNSPACED
from ray_si.dedup.tokens import tokenize, unread
from ray_si.self_instruct import filters

LETTER = rf"[[\p{{L}}\p{{Nl}}]&&[{UNSPACED}]]"
STACKER = r"[\p{InSC=Virama}\p{InSC=Invisible_Stacker}]"
WORD = rf"[[\p{{L}}\p{{Nd}}\p{{Nl}}]--[{LETTER}\u02bb\u02bc]]"
TOKEN = regex.compile(
    rf"{LETTER}(?:[\p{{Mn}}\p{{Mc}}]|(?<={STACKER})[{LETTER}\p{{No}}])*"
    rf"|\p{{No}}(?:[\p{{Mn}}\p{{Mc}}]|(?<={STACKER})[{LETTER}\p{{No}}])*"
    rf"|{WORD}(?:{WORD}|[\p{{Mn}}\p{{Mc}}])*",
    regex.V1,
)
FORM = regex.compile(r"[[\p{L}\p{M}\p{Nd}\p{Nl}]&&[\p{NFKC_QC=No}\p{CWCF}]]", regex.V1)
FOREIGN = regex.compile(r"[[\p{L}\p{N}]--[A-Za-z0-9]]", regex.V1)
UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}\u0640]")

LANGUAGES = {
    "Arabic": ("اكتب قصيدة قصيرة عن البحر.", "اكتب قصيدة قصيرة عن القمر.", 5, 4),
    "Chinese": ("请写一首关于大海的短诗。", "请写一首关于月亮的短诗。", 11, 9),
    "Hindi": ("समुद्र के बारे में एक छोटी कविता लिखिए।", "चाँद के बारे में एक छोटी कविता लिखिए।", 8, 7),
    "Japanese": (
        "海についての短い詩を書いてください。",
        "月についての短い詩を書いてください。",
        17,
        16,
    ),
    "Khmer": ("សរសេរកំណាព្យ", "សរសេរអត្ថបទ", 7, 4),
    "Korean": ("바다에 대한 짧은 시를 쓰세요.", "달에 대한 짧은 시를 쓰세요.", 5, 4),
    "Russian": ("Напишите короткий стих о море.", "Напишите короткий стих о луне.", 5, 4),
    "Thai": ("เขียนบทกวีสั้น ๆ เกี่ยวกับทะเล", "เขียนบทกวีสั้น ๆ เกี่ยวกับดวงจันทร์", 21, 18),
    "Vietnamese": ("Viết một bài thơ ngắn về biển.", "Viết một bài thơ ngắn về trăng.", 7, 6),
}
"""Two instructions, the tokens of the first, and how many it shares with the second in order."""


def slow_tokens(text):
    """The definition, character by character."""
    text = unicodedata.normalize("NFC", text).replace("İ", "i")
    text = UNSEEN.sub("", text)
    text = FORM.sub(lambda match: unicodedata.normalize("NFKC", match[0]).casefold(), text)
    return TOKEN.findall(unicodedata.normalize("NFC", text))


def slow_f(a, b):
    x, y = slow_tokens(a), slow_tokens(b)
    return 2 * LCSseq.similarity(x, y) / (len(x) + len(y)) if x and y else 0.0


SCRIPTS = st.text(
    st.one_of(
        st.characters(max_codepoint=0x17F),
        st.characters(min_codepoint=0x2B0, max_codepoint=0x36F),
        st.sampled_from(
            "的一是不了人我在有他这ー々〇、。「」・ｶﾞﾊﾟアあがぎゃＡａ１ｚ②½²™é" + "क्ष्कि्ाँ१२"
        ),
        st.sampled_from("กขคน้ำเแ๑๒ฯๆກຂນ້ຳកខ្ញុំ្រမြန်မာက္ကᨠ᩠ᨡꦏ꧀ꦱ"),
        st.sampled_from(
            " \0\n'’ʼʻ-_.\u00ad\u200b\u200c\u200d\ufe0f\u0301\u0308\u0307\u20e3İıßſﬁﷺﻻـ❤👩"
        ),
        st.characters(),
    ),
    max_size=20,
)


@given(SCRIPTS)
@example("a\u1039က")
@example("က\u1039a\u1039ခ")
@example("ΐ Ϊ́ ᾴ ǰ \u0345\u0301")
@example("\u0300a\0\u0300")
def test_tokens_equal_their_definition(text):
    assert tokenize(text) == slow_tokens(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_has_the_reference_tokens(text):
    assert tokenize(text) == tokenize(text, "reference")


@given(SCRIPTS)
def test_the_same_text_in_other_code_points_has_the_same_tokens(text):
    for form in ("NFC", "NFD"):
        assert tokenize(unicodedata.normalize(form, text)) == tokenize(text)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don’t say “naïve”… twice—OK?", ["don", "t", "say", "naïve", "twice", "ok"]),
        ("résumé, RÉSUMÉ, resume", ["résumé", "résumé", "resume"]),
        ("Lego™ at 20 °C, 5 €, ❤️ 👩‍🚀 1️⃣", ["lego", "at", "20", "c", "5", "1"]),
        ("3½ m² of H₂O", ["3", "½", "m", "²", "of", "h", "₂", "o"]),
        ("x = [α, β]; # naïve_λ", ["x", "α", "β", "naïve", "λ"]),
        ("п'ять п’ять пʼять", ["п", "ять"] * 3),
        ("Straße ﬁn İstanbul co\u00adoperate", ["strasse", "fin", "istanbul", "cooperate"]),
        ("Σίσυφος ΣΊΣΥΦΟΣ", ["σίσυφοσ"] * 2),
        ("ＡＢＣ１２３ｶﾞ", ["abc123", "ガ"]),
        ("ラーメン、人々", ["ラ", "ー", "メ", "ン", "人", "々"]),
        ("用Python写3个", ["用", "python", "写", "3", "个"]),
        ("क्‍ष हिन्दी १२", ["क्ष", "हिन्दी", "१२"]),
        ("می‌خواهم كتـــاب ﻻ", ["میخواهم", "كتاب", "لا"]),
        ("นี่ ๑๒", ["นี่", "๑๒"]),
        ("ខ្ញុំ မြန်မာ က္က", ["ខ្ញុំ", "မြ", "န်", "မာ", "က္က"]),
        ("བོད་ཡིག", ["བོད", "ཡིག"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("a\ud800b 🙂 «—»", ["a", "b"]),
    ],
)
def test_what_is_a_token(text, tokens):
    assert tokenize(text) == tokens


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_are_compared_word_by_word(language):
    first, second, size, shared = LANGUAGES[language]
    assert len(tokenize(first)) == size
    score = rouge_l(first, second)
    assert score == 2 * shared / (size + len(tokenize(second)))
    assert score == pytest.approx(slow_f(first, second), abs=1e-12)
    assert rouge_l(first, first) == 1.0
    assert unread([first]) == (language != "Vietnamese")


@pytest.mark.parametrize("language", LANGUAGES)
def test_other_code_points_and_widths_are_duplicates(language):
    first = f"{LANGUAGES[language][0]} Python 3 ガ é"
    wide = str.maketrans("Python3", "Ｐｙｔｈｏｎ３")
    texts = [
        first,
        unicodedata.normalize("NFD", first),
        unicodedata.normalize("NFC", first),
        first.translate(wide),
        first.replace("ガ", "ｶﾞ"),
        first.replace(" ", "\u00a0"),
        f"\ufeff{first}\u200d",
        first.upper(),
    ]
    result = Deduplicator(rouge=0.99, cosine=None).filter(texts)
    assert result.accepted == [0]
    assert [(d.score, d.match) for d in result.rejected] == [(1.0, first)] * 7
    assert [d.index for d in result.rejected] == list(range(1, 8))


def test_an_index_decides_as_the_definition_does_in_every_script():
    random_ = random.Random(20)
    words = [first.split() if " " in first else list(first) for first, *_ in LANGUAGES.values()]
    texts = []
    for _ in range(400):
        some = list(random_.choice(words))
        for _ in range(random_.randrange(4)):
            some[random_.randrange(len(some))] = random_.choice(random_.choice(words))
        text = random_.choice(["", " "]).join(some)
        texts.append(unicodedata.normalize(random_.choice(["NFC", "NFD"]), text))
    pool, queries = texts[:300], texts[300:]
    index = RougeIndex(0.6)
    index.add(pool)
    scores, ids = index.search(queries)
    for query, score, id_ in zip(queries, scores, ids, strict=True):
        expected = [slow_f(query, text) for text in pool]
        best = max(expected)
        assert score == pytest.approx(best if best > 0.6 else 0, abs=1e-12)
        assert id_ == (expected.index(best) if best > 0.6 else -1)


def test_distinct_instructions_that_share_a_latin_word_are_kept_and_copies_are_not():
    chinese = [
        "用Python写一个排序函数。",
        "请解释Python的装饰器是什么。",
        "比较Python与其他语言的优缺点。",
    ]
    hindi = ["2023 की घटनाओं पर निबंध लिखिए।", "2023 में जन्मे बच्चों के नाम सुझाइए।"]
    result = Deduplicator(cosine=None).filter([*chinese, *hindi, chinese[0], hindi[0]])
    assert result.accepted == [0, 1, 2, 3, 4]
    assert [(d.index, d.score) for d in result.rejected] == [(5, 1.0), (6, 1.0)]
    blind = Deduplicator(cosine=None, tokenizer="reference").filter([*chinese, *hindi])
    assert blind.accepted == [0, 3]


def test_texts_of_which_the_reference_tokens_hold_less_than_half_are_counted():
    texts = [
        "Read me",
        "naïve café",
        "用Python写",
        "用Python写一个排序函数",
        "Привет",
        "…",
        "",
        "٣",
    ]
    assert unread(texts) == 3


def test_word_counts_take_the_same_scripts():
    assert filters.UNSPACED == UNSPACED


def english():
    """Short paragraphs of what the installed packages say of themselves."""
    for distribution in distributions():
        description = distribution.metadata.get_payload() or distribution.metadata["Description"]  # type: ignore[attr-defined]
        yield from (part for part in str(description or "").split("\n\n") if len(part) < 400)


def test_english_is_gated_as_by_the_reference_to_the_last_decision(reference: Path):
    seeds = (reference / "paper_seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["instruction"] for line in seeds] + list(english())
    texts = [text for text in texts if not FOREIGN.search(text)]  # quotes, dashes, emoji may stay
    assert len(texts) > 3000
    assert sum(not text.isascii() for text in texts) > 20
    one, other = (
        Deduplicator(rouge=0.7, cosine=None, tokenizer=tokenizer).filter(texts)
        for tokenizer in ("auto", "reference")
    )
    assert one.accepted == other.accepted
    assert one.rejected == other.rejected
    assert len(one.rejected) > 100
