"""What the reason codes of rejections mean, in a sentence each."""

from __future__ import annotations

REASONS = {
    # instructions
    "too_short": "Fewer words than bootstrap.min_words.",
    "too_long": "More words than bootstrap.max_words.",
    "keyword": "Asks for what a language model cannot see or do: images, files, maps.",
    "write_a_program": "Begins with “Write a program”.",
    "leading_punctuation": "Begins with a punctuation mark.",
    "leading_non_ascii": "Begins with a character that is not ASCII.",
    "unfinished": "The model ran out of tokens before the item ended.",
    "empty_completion": "The completion held no numbered item.",
    "engine_error": "The request failed for good, after every retry.",
    "refused": "The model or its endpoint will not answer this: too long, filtered or declined.",
    "preamble": "What a chat model says before its first item.",
    "contaminated": "Resembles a text of an evaluation set.",
    "rouge": "ROUGE-L with an earlier instruction is above dedup.rouge.",
    "cosine": "The cosine similarity with an earlier instruction is above dedup.cosine.",
    "target_reached": "Passed every check after the target had been reached.",
    "unusual_opening": "Begins with neither a common task verb nor a question word.",
    "several_sentences": "More than one sentence.",
    "no_full_stop": "Does not end like a sentence.",
    "rambling": "Very long for a task.",
    "placeholder": "Holds a placeholder, such as [name].",
    "repeated_words": "Uses one word three times or more.",
    "no_labels": "A classification task without labels to choose from.",
    # instances
    "empty_output": "The output is empty.",
    "input_is_output": "Input and output are the same.",
    "ends_with_colon": "Input or output breaks off after a colon.",
    "conflicting_outputs": "Two instances share an input but differ in output.",
    "duplicate": "The same instance was there already.",
    "over_limit": "Beyond instances.max_per_instruction.",
    "no_instance": "The completion held no instance.",
    "not_asked": "No model was asked for instances of this instruction.",
    "scaffolding": "Holds pieces of the prompt's form.",
    "echo": "The output repeats the instruction or the input.",
    "loop": "The output repeats itself.",
    "missing_input": "The instruction points at an input that is not there.",
    "unknown_label": "The output is not one of the labels.",
}
"""Reason code -> meaning; a code that is not here is shown by itself."""
