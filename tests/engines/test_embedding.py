"""Sentence embeddings by static models, which are made here: a vector a word."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from ray_si.engines.registry import embedder
from ray_si.errors import EngineError

WORDS = {"[UNK]": 0, "rivers": 1, "lakes": 2, "seas": 3}
VECTORS = np.array([[0, 0], [3, 4], [1, 0], [np.nan, 1]], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a static model."""
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    made = tmp_path_factory.mktemp("static")
    model = StaticEmbedding(tokenizer, embedding_weights=VECTORS)
    SentenceTransformer(modules=[model], device="cpu").save(str(made))
    return made


@pytest.fixture(scope="module")
def static(folder):
    """Its embedder."""
    return embedder(str(folder))


def test_a_static_model_gives_vectors_of_length_one_and_zeros_for_what_it_does_not_know(static):
    vectors = static.encode(["rivers", "rivers lakes", "mountains"])
    assert vectors.dtype == np.float32
    expected = [[0.6, 0.8], np.array([4, 4]) / np.sqrt(32), [0, 0]]
    assert np.allclose(vectors, expected, atol=1e-6)


def test_a_model_that_gives_nan_is_told_with_the_text(static):
    with pytest.raises(EngineError, match=r'gives NaN for "rivers and seas"; use another model'):
        static.encode(["lakes", "rivers and seas"])


def test_weights_that_are_cut_off_are_an_error_of_ours(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "cut")
    (weights,) = (tmp_path / "cut").rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(EngineError, match=r"the embedder \S*/cut cannot be loaded: "):
        embedder(str(tmp_path / "cut"), "cpu")
