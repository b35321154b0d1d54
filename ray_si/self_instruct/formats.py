"""Instance -> training row, in the layouts that fine-tuning libraries read."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ray_si.records import Instance

Format = Literal["alpaca", "messages", "prompt-completion"]
FORMATS: tuple[Format, ...] = get_args(Format)


def to_row(instruction: str, instance: Instance, format_: Format) -> dict[str, Any]:
    """One training row.

    alpaca: ``instruction, input, output``. messages: ``messages``, a user and an assistant turn.
    prompt-completion: ``prompt, completion``. In the last two the input follows the instruction
    after a blank line.
    """
    if format_ == "alpaca":
        return {"instruction": instruction, "input": instance.input, "output": instance.output}
    prompt = f"{instruction}\n\n{instance.input}" if instance.input else instruction
    if format_ == "messages":
        return {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": instance.output},
            ]
        }
    return {"prompt": prompt, "completion": instance.output}
