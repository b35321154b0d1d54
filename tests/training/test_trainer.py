"""Training itself, on a tiny model, without Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from ray_si.errors import TrainingError
from ray_si.training import trainer
from ray_si.training.base import inspect
from ray_si.training.config import Training
from ray_si.training.encode import Encoder

COMMON = {"batch_size": 4, "rows_at_once": 2, "dtype": "float32", "checkpoint_steps": 3}


@pytest.fixture(scope="module")
def tokens(tiny_model):
    encoder = Encoder(inspect(tiny_model).tokenizer, "chat", max_length=100, too_long="drop")
    names = [str(i) for i in range(24)]
    return encoder.encode(names, [f"Say {n}." for n in names], [f"{n}!" for n in names])


def run(settings, model, tokens, folder, resume=None):
    """Train; the history, and the checkpoints by step."""
    history: dict[int, float] = {}
    saved = {}

    def logged(lines, steps):
        history.update({int(line["step"]): line["loss"] for line in lines})

    def keep(checkpoint, step):
        saved[step] = Path(f"{folder}-{step}")
        checkpoint.rename(saved[step])

    hooks = trainer.Hooks(logged, keep)
    trained = trainer.train(settings, model, tokens, folder, resume=resume, hooks=hooks)
    return trained, history, saved


@pytest.mark.parametrize("method", ["lora", "full"])
def test_from_a_checkpoint_on_losses_and_weights_are_those_of_an_unbroken_run(
    tiny_model, tokens, tmp_path, method
):
    settings = Training(model=tiny_model, method=method, max_steps=6, learning_rate=0.01, **COMMON)
    whole, history, saved = run(settings, tiny_model, tokens, tmp_path / "whole")
    resumed, again, _ = run(settings, tiny_model, tokens, tmp_path / "again", resume=saved[3])
    assert list(history) == [1, 2, 3, 4, 5, 6]
    assert again == history
    assert history[6] < history[1]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    base = inspect(tiny_model)
    trainer.finish(resumed, settings, tiny_model, base.dtype, tmp_path / "model")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    before = load_file(Path(tiny_model) / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys(), "no adapter is left beside the weights"
    assert any(not torch.equal(before[name], after[name]) for name in before)
    row = torch.tensor([tokens["input_ids"][0].as_py()])
    with torch.inference_mode():
        trained_logits = resumed.model.eval()(input_ids=row).logits
        assert torch.allclose(made(input_ids=row).logits, trained_logits, atol=1e-4)


def test_from_a_checkpoint_of_the_last_step_no_further_step_is_taken(tiny_model, tokens, tmp_path):
    """In the middle of an epoch, too."""
    settings = Training(model=tiny_model, max_steps=2, learning_rate=0.01, **COMMON)
    whole, history, saved = run(settings, tiny_model, tokens, tmp_path / "whole")
    resumed, again, more = run(settings, tiny_model, tokens, tmp_path / "again", resume=saved[2])
    assert (resumed.state.global_step, again, more) == (2, history, {})
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_adapters_can_be_kept_apart(tiny_model, tokens, tmp_path):
    settings = Training(model=tiny_model, max_steps=2, lora={"merge": False, "rank": 2}, **COMMON)
    trained, _, _ = run(settings, tiny_model, tokens, tmp_path / "out")
    trainer.finish(trained, settings, tiny_model, "float32", tmp_path / "model")
    kept = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert (kept["r"], kept["base_model_name_or_path"]) == (2, tiny_model)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").peft_config


def test_rows_of_a_step_may_go_through_the_model_in_any_number_of_parts(
    tiny_model, tokens, tmp_path
):
    """The loss is a mean over the step's tokens, not over the parts' means."""
    losses = []
    for rows_at_once in (1, 4):
        options = COMMON | {"rows_at_once": rows_at_once}
        settings = Training(
            model=tiny_model, method="full", max_steps=2, learning_rate=0.01, **options
        )
        _, history, _ = run(settings, tiny_model, tokens, tmp_path / str(rows_at_once))
        losses.append(list(history.values()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_tokenizer_without_padding_gets_its_end_as_padding(plain_model, tmp_path):
    base = inspect(plain_model)
    assert base.tokenizer.pad_token_id is None
    encoder = Encoder(base.tokenizer, "text", max_length=100, too_long="drop")
    rows = encoder.encode(["a", "b"], ["Short", "A longer prompt"], ["x", "some more words"])
    settings = Training(
        model=plain_model, method="full", max_steps=1, **COMMON | {"rows_at_once": 4}
    )
    trained, history, _ = run(settings, plain_model, rows, tmp_path / "out")
    assert trained.processing_class.pad_token == "<|im_end|>"
    batch = trained.data_collator([trained.train_dataset[i] for i in range(2)])
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert history[1] > 0


def test_a_constant_learning_rate_is_risen_to_as_others_are(tiny_model, tokens, tmp_path):
    settings = Training(
        model=tiny_model, schedule="constant", warmup=0.5, learning_rate=0.01, max_steps=2, **COMMON
    )
    trained, _, _ = run(settings, tiny_model, tokens, tmp_path / "out")
    rates = [line["learning_rate"] for line in trained.state.log_history if "loss" in line]
    assert rates == [0, 0.01]


@pytest.mark.parametrize(("log_steps", "seen"), [(1, r"\d"), (100, "4")])
def test_a_loss_that_is_no_number_ends_the_training_with_what_to_do(
    tiny_model, tokens, tmp_path, log_steps, seen
):
    """Also where the last step alone is logged; it isn't saved then."""
    settings = Training(
        model=tiny_model,
        method="full",
        max_steps=4,
        learning_rate=1e30,
        warmup=0,
        log_steps=log_steps,
        **COMMON,
    )
    message = f"no number any more at step {seen}; a lower learning_rate"
    with pytest.raises(TrainingError, match=message):
        run(settings, tiny_model, tokens, tmp_path / "out")
    assert not (tmp_path / "out-4").exists()


def test_a_gradient_that_is_no_number_at_the_last_step_leaves_no_model(
    tiny_model, tokens, tmp_path, monkeypatch
):
    """The loss is one still, and what the step makes of the weights is not."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    next(model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: model)
    settings = Training(model=tiny_model, method="full", max_steps=1, **COMMON)
    with pytest.raises(TrainingError, match="its gradient is no number any more at step 1;"):
        run(settings, tiny_model, tokens, tmp_path / "out")
    assert not (tmp_path / "out-1").exists()


def test_sharding_is_passed_on_to_the_trainer(tmp_path):
    """As configuration only: no machine of the tests has GPUs."""
    settings = Training(
        gpu=True, workers=2, parallel="fsdp", dtype="float32", fsdp={"cpu_offload": True}
    )
    options = trainer.arguments(settings, tmp_path)
    assert options.fsdp
    assert options.fsdp_plugin_args["cpu_offload"]
    assert options.gradient_accumulation_steps == 1


def test_packed_rows_are_learned_as_if_each_were_alone(tiny_model, tokens, tmp_path):
    """One step over all rows has the same mean loss, and makes the same weights."""
    few = tokens.slice(0, 8)  # a step over more has gigabytes of logits
    results = []
    for packing in (False, True):
        settings = Training(
            model=tiny_model,
            method="full",
            max_steps=2,
            learning_rate=0.01,
            max_length=100,
            packing=packing,
            **COMMON | {"batch_size": 8, "rows_at_once": 8},
        )
        trained, history, _ = run(settings, tiny_model, few, tmp_path / str(packing))
        weights = torch.cat([values.flatten() for values in trained.model.parameters()])
        results.append((len(trained.train_dataset), list(history.values()), weights))
    (rows, losses, weights), (packs, packed_losses, packed_weights) = results
    assert packs < rows == 8
    assert packed_losses == pytest.approx(losses, rel=1e-5)
    assert torch.allclose(packed_weights, weights, atol=1e-3)


def test_a_model_whose_packed_rows_would_see_each_other_is_refused(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    trainer.check_rows_are_apart(model)
    recurrent = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(TrainingError, match="see each other in this model: turn off packing"):
        trainer.check_rows_are_apart(recurrent)
