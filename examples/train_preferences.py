"""Build with two answers to each input, export the better and the worse, and tune a model on them.

Scripted answers stand for the generator, and a few steps on the bundled model for a training: it
shows the way, and makes nothing better. Needs the extra `train`.
"""

from datasets import load_dataset
from peft import LoraConfig
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from ray_si import Run, build_dataset
from ray_si.config.file import parse_config
from ray_si.engines.bundled import resolve
from ray_si.export.training_files import Options, write_training_files
from ray_si.scores.preference import PairSource, preference

CONFIG = {
    "target_instructions": 20,
    "generator": {"engine": "replay", "model": None},  # a real one: transformers, vllm, openai
    "bootstrap": {"prompts_per_round": 8, "lookahead": 0},
    "instances": {"method": "steps", "answers": 2},
    "dedup": {"cosine": None},
}

if __name__ == "__main__":
    build_dataset(parse_config(CONFIG), "runs/two_answers")
    run = Run.open("runs/two_answers")
    pairs = PairSource(run)  # the likelier of two answers, or by a score: PairSource(run, "reward")
    options = Options("preference", overwrite=True)
    done = write_training_files(
        run, "runs/preferences", preference(), options, {"format": "preference"}, source=pairs
    )
    print(done.rows["train"], "pairs,", pairs.alone, "inputs without one")

    data = load_dataset("json", data_files="runs/preferences/preference.jsonl", split="train")
    for side in ("prompt", "chosen", "rejected"):
        print(f"{side:8}", repr(data[0][side][0]["content"]))

    trainer = DPOTrainer(
        model=resolve("smollm2-135m-instruct"),
        args=DPOConfig(
            "runs/dpo",
            max_steps=2,
            per_device_train_batch_size=2,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=data,
        peft_config=LoraConfig(task_type="CAUSAL_LM"),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model("runs/dpo/adapter")
    print(trainer.state.global_step, "steps; the adapter is in runs/dpo/adapter")
