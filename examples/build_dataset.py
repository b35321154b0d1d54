"""Build a dataset from Python, with scripted answers in place of a model.

Run it twice: the second time finds the run finished and asks for nothing.
"""

from ray_si import build_dataset
from ray_si.config.file import parse_config

CONFIG = {
    "target_instructions": 40,
    "generator": {"engine": "replay", "model": None},  # a real one: transformers, vllm, openai
    "bootstrap": {"prompts_per_round": 16, "lookahead": 0},
    "dedup": {"rouge": 0.7, "cosine": None},
}

if __name__ == "__main__":
    result = build_dataset(
        parse_config(CONFIG),
        "runs/example",
        listen=lambda progress: print(progress.note) if progress.note else None,
    )
    print(result.stats["rows"], "rows of", result.stats["accepted"], "instructions")
