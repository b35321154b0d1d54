"""Build a small dataset from a model behind an OpenAI-compatible endpoint.

    python examples/ask_endpoint.py http://localhost:8000/v1 my-model

The key, where one is needed, is read from the variable that a third argument names.
"""

import sys

import yaml

from ray_si import build_dataset
from ray_si.config.file import parse_config
from ray_si.config.starter import Starter

if __name__ == "__main__":
    url, model, *key = sys.argv[1:]
    values = yaml.safe_load(Starter("endpoint", model, target=20, base_url=url).text())
    values["generator"]["prompt_style"] = "completion"
    values["generator"]["sampling"] = {}  # the defaults
    values["generator"]["openai"]["api_key_env"] = key[0] if key else None
    values["bootstrap"] = {"prompts_per_round": 8}
    values["dedup"]["cosine"] = None  # no embedder, so nothing is loaded here
    result = build_dataset(parse_config(values), "runs/endpoint")
    print(result.stats["rows"], "rows of", result.stats["accepted"], "instructions")
