"""Examples that no model has been near."""

from __future__ import annotations

from ray_si.experiments.unseen import unseen
from ray_si.records import Instance
from ray_si.training.config import Evaluation
from ray_si.training.tasks import Example

BY_ROUGE = Evaluation(exclude_cosine=None)


def example(instruction, given=""):
    return Example("e", "t", instruction, Instance(given, "x"), ("x",))


def test_a_full_stop_or_a_word_does_not_make_another_task():
    near = [
        example("Name the longest river of the country."),
        example("name the  longest river of this country"),
    ]
    other = example("Write a poem about the sea.")
    trained_on = ["Name the longest river of the country"]
    assert unseen([*near, other], trained_on, BY_ROUGE) == [other]
    assert unseen([*near, other], [], BY_ROUGE) == [*near, other]


def test_an_example_with_an_input_of_the_training_is_left_out_and_its_task_is_not():
    text = "The ferry leaves at nine and comes back at noon on every day but Sunday."
    seen, fresh = (
        example("When does it leave?", text),
        example("When does it leave?", "The bus is late."),
    )
    assert unseen([seen, fresh], ["Summarise this.", text], BY_ROUGE) == [fresh]


def test_other_words_for_the_same_are_near_by_cosine():
    same = example("Give the name of the country's biggest city.")
    other = example("Write a poem about the sea.")
    trained_on = ["Name the largest city of the country."]
    assert unseen([same, other], trained_on, BY_ROUGE) == [same, other]
    by_both = Evaluation(exclude_cosine=0.8)
    assert unseen([same, other], trained_on, by_both) == [other]
