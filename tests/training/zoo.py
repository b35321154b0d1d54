"""Chat templates in the shape of each family's, and small tokenizers of each kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ray_si.run.seeds import load_seeds

EOS = "<|eos|>"


@dataclass(frozen=True)
class Family:
    """``lead`` and ``end`` are what is to be learned around an answer; ``stops`` end a turn."""

    template: str | None
    lead: str
    end: str
    stops: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()

    @property
    def control(self) -> tuple[str, ...]:
        """Every special token of the family."""
        return (EOS, *self.stops, *self.markers)


def _turns(turn: str, opening: str, first: str = "") -> str:
    """A template of the usual shape, with m for the message."""
    return (
        f"{first}{{% for m in messages %}}{turn}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )


_CHATML = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
_IM = ("<|im_end|>",), ("<|im_start|>",)
_QWEN3 = (
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n"
)
_LLAMA3 = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
_GEMMA = (
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n"
)
_DEEPSEEK = (
    "{% if m.role == 'user' %}<|User|>{{ m.content }}{% else %}<|Assistant|>"
    "{{ m.content.split('</think>')[-1] }}<|eos|>{% endif %}"
)
_GPT_OSS = (
    "{% if m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>{% else %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% endif %}"
)
_LLAMA2 = (
    "{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]{% else %}"
    " {{ m.content | trim }} <|eos|>{% endif %}"
)
_MISTRAL = (
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}<|eos|>"
    "{% endif %}"
)

FAMILIES = {
    "none": Family(None, "", ""),
    "chatml": Family(_turns(_CHATML, "<|im_start|>assistant\n"), "", "<|im_end|>", *_IM),
    "chatml-stopping-at-eos-alone": Family(
        _turns(_CHATML, "<|im_start|>assistant\n"), "", "<|im_end|>" + EOS, (), sum(_IM, ())
    ),
    "qwen2.5": Family(
        _turns(_CHATML, "<|im_start|>assistant\n", "<|im_start|>system\nYou are Q.<|im_end|>\n"),
        "", "<|im_end|>", *_IM,
    ),
    "qwen3": Family(
        _turns(_QWEN3, "<|im_start|>assistant\n"), "<think>\n\n</think>\n\n", "<|im_end|>", *_IM
    ),
    "qwen3-thinking": Family(
        _turns(_CHATML, "<|im_start|>assistant\n<think>\n"), "\n</think>\n\n", "<|im_end|>", *_IM
    ),
    "qwen3-not-thinking": Family(
        _turns(_CHATML, "<|im_start|>assistant\n<think>\n\n</think>\n\n"), "", "<|im_end|>", *_IM
    ),
    "llama2": Family(_turns(_LLAMA2, "", EOS), " ", " " + EOS),
    "llama3": Family(
        _turns(_LLAMA3, "<|start_header_id|>assistant<|end_header_id|>\n\n", EOS),
        "", "<|eot_id|>", ("<|eot_id|>",), ("<|start_header_id|>", "<|end_header_id|>"),
    ),
    "mistral": Family(_turns(_MISTRAL, ""), " ", EOS, (), ("[INST]", "[/INST]")),
    "gemma": Family(
        _turns(_GEMMA, "<start_of_turn>model\n"),
        "", "<end_of_turn>", ("<end_of_turn>",), ("<start_of_turn>",),
    ),
    "phi": Family(
        _turns("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n"),
        "", "<|end|>", ("<|end|>",), ("<|user|>", "<|assistant|>"),
    ),
    "deepseek-r1": Family(
        _turns(_DEEPSEEK, "<|Assistant|><think>\n"),
        "\n</think>\n\n", EOS, (), ("<|User|>", "<|Assistant|>"),
    ),
    "gpt-oss": Family(
        _turns(_GPT_OSS, "<|start|>assistant"), "<|channel|>final<|message|>", "<|return|>",
        ("<|return|>",), ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
    ),
    "without-end-of-turn": Family(
        _turns("{{ m.role }}: {{ m.content }}\n", "assistant: "), "", EOS
    ),
}  # fmt: skip

BAD_TEMPLATES = {
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}": (
        "does not write the answer that it is given"
    ),
    "{% for m in messages %}{{ m.content | upper }}{% endfor %}": "does not write the question",
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}"
    "{{ m.content | title }}{% endif %}{% endfor %}": "or alters it",
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{{ raise_exception('only one turn') if messages | length > 1 }}": "only one turn",
    "{% if add_generation_prompt %}Q: {{ messages[0].content }} A:{% else %}"
    "{{ messages[0].content }} = {{ messages[1].content }}{% endif %}": (
        "writes a finished turn otherwise than it opens one"
    ),
}
"""Template -> what is wrong with it."""

_GPT4_SPLIT = (
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _corpus() -> list[str]:
    seeds = load_seeds("bundled")[0][:60]
    return [f"{s.instruction}\n\n{i.input}\n{i.output}\n" for s in seeds for i in s.instances]


def _lines() -> list[str]:
    """The corpus without line breaks, of which SentencePiece makes no part of a word."""
    return [line for text in _corpus() for line in text.split("\n")]


def _byte_level(split: str | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = level
    if split:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split), "isolated"), level]
        )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    """As SentencePiece has it: a space before a text, and before one after a special token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=500,
        unk_token="<unk>",
        special_tokens=["<unk>"],
        initial_alphabet=["\n"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(), trainer)
    return tokenizer


def _sentencepiece_bpe() -> Tokenizer:
    """As Llama 2 has it: bytes for what is unknown, and no words before merging."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        max_token_length=8,
    )
    tokenizer.train_from_iterator(_lines(), trainer)
    return tokenizer


_MADE = {
    "gpt2": lambda: _byte_level(None),
    "gpt4": lambda: _byte_level(_GPT4_SPLIT),
    "unigram": _unigram,
    "sentencepiece": _sentencepiece_bpe,
}
KINDS = (*_MADE, "bytes")
TEXT_FAITHFUL = ("gpt2", "gpt4", "bytes")
"""Kinds whose tokens give back their text to the letter."""


@cache
def _trained(kind: str) -> str:
    made = json.loads(_MADE[kind]().to_str())
    made["added_tokens"] = []  # the trainer takes bytes for special tokens, models do not
    return json.dumps(made)


@cache
def tokenizer(kind: str, family: str) -> Any:
    """A tokenizer of this kind with the special tokens and the template of this family."""
    of = FAMILIES[family]
    if kind == "bytes":  # in Python, without offsets
        end = AddedToken(EOS, lstrip=False, rstrip=False, special=True)
        made: Any = ByT5Tokenizer(extra_ids=0, eos_token=end)
    else:
        unk = {"unk_token": "<unk>"} if kind in ("unigram", "sentencepiece") else {}
        backend = Tokenizer.from_str(_trained(kind))
        made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, **unk)
    made.add_special_tokens({"additional_special_tokens": list(of.stops + of.markers)})
    made.chat_template = of.template
    return made
