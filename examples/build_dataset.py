"""Build a dataset from Python, with scripted answers in place of a model.

Run it twice: the second time finds the run finished and asks for nothing.
"""

from ray_si import build_dataset, load_config

if __name__ == "__main__":
    config = load_config(
        "configs/quickstart.yaml",
        ["generator.engine=replay", "dedup.cosine=off", "bootstrap.quality_filters=false"],
    )
    result = build_dataset(
        config,
        "runs/example",
        listen=lambda progress: print(progress.note) if progress.note else None,
    )
    print(result.stats["rows"], "rows of", result.stats["accepted"], "instructions")
