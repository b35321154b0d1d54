"""A model small enough to be trained in a moment, with the bundled tokenizer's vocabulary."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def write_tiny_model(folder: Path, *, chat: bool = True, pad: bool = True, seed: int = 0) -> str:
    """A Llama of random weights; with or without a chat template and a padding token."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from ray_si.engines import bundled

    tokenizer = AutoTokenizer.from_pretrained(bundled.resolve("smollm2-135m-instruct"))
    if not chat:
        tokenizer.chat_template = None
    if not pad:
        tokenizer.pad_token = None
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2 if pad else None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if not chat:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory) -> str:
    """The same without a chat template or a padding token."""
    return write_tiny_model(tmp_path_factory.mktemp("plain") / "model", chat=False, pad=False)


def copy_model(source: str, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder
