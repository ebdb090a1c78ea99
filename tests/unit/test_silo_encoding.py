"""Records as token ids and labels: of texts, of words, of responses."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from privacy.dp.engine import UNLABELLED
from privacy.errors import ConfigError
from silo_agent.datasets import Part
from silo_agent.encoding import Encoder, made_up
from tests.tiny import TAGS, WORDS, WRITING, tiny_folder, tiny_job, tiny_plan, tiny_writer

ONE = np.zeros(1, np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    return tiny_writer(tmp_path_factory.mktemp("writer"))


def task_of(folder, **changes):
    return tiny_plan(tiny_job(**changes), folder)[0].task


def spoken(ids):
    return " ".join(WORDS[i] for i in ids)


def test_classes_are_counted_in_the_plans_order(folder):
    part = Part(("red big", "blue"), np.array([0, 1]), np.arange(2))
    tokens, labels = Encoder(task_of(folder), folder)(part, ("yes", "no"))
    assert labels.tolist() == [1, 0], "the plan says no, yes"
    assert tokens["input_ids"].shape == (2, 16)


def test_a_words_class_is_that_of_its_first_token(folder):
    """The tokenizer makes three tokens of `red-big`: the word's others have no class of their own."""
    part = Part(("red-big blue 7", "cold"), np.zeros(2, np.int64), np.arange(2), tags=((1, 0, 1), (0,)))
    tokens, labels = Encoder(task_of(folder, **TAGS), folder)(part, ("yes", "no"))
    assert spoken(tokens["input_ids"][0][:5]) == "red [UNK] big blue 7"
    none = UNLABELLED
    assert labels[0].tolist() == [0, none, none, 1, 0] + [none] * 11
    assert labels[1].tolist() == [1] + [none] * 15


def test_words_beyond_the_limit_have_no_class(folder):
    part = Part((" ".join(["red"] * 20),), ONE, ONE, tags=((1,) * 20,))
    _, labels = Encoder(task_of(folder, **TAGS), folder)(part, ("no", "yes"))
    assert labels.tolist() == [[1] * 16]


def written(writer, text, response, limit=16):
    task = task_of(writer, **{**WRITING, "task": {**WRITING["task"], "max_tokens": limit}})
    tokens, labels = Encoder(task, writer)(Part((text,), ONE, ONE, responses=(response,)), ())
    return tokens["input_ids"][0], tokens["attention_mask"][0], labels[0]


def test_each_position_is_held_against_the_next_token_of_the_response_and_its_end(writer):
    ids, mask, labels = written(writer, "red big", "cold 7")
    assert spoken(ids[:5]) == "red big cold 7 made"
    assert mask.tolist() == [1] * 5 + [0] * 11
    assert spoken(labels[1:4]) == "cold 7 made"
    assert (labels[4:] == UNLABELLED).all()
    assert labels[0] == UNLABELLED, "the prompt is not learnt"


def test_a_prompt_too_long_loses_its_beginning_and_a_response_too_long_its_end(writer):
    ids, _, labels = written(writer, "1 2 3 4 5 6", "red blue", limit=6)
    assert spoken(ids) == "4 5 6 red blue made"
    assert spoken(labels[2:5]) == "red blue made"
    ids, mask, labels = written(writer, "1 2 3", "4 5 6 7 8 9", limit=5)
    assert spoken(ids) == "3 4 5 6 7"
    assert spoken(labels[:4]) == "4 5 6 7"
    assert mask.all()


def test_an_empty_prompt_is_an_error(writer):
    with pytest.raises(ConfigError, match="a prompt has no token"):
        written(writer, " ", "red")


def test_what_one_record_is_encoded_to_does_not_hang_on_the_others(folder, writer):
    for task, where in ((task_of(folder, **TAGS), folder), (task_of(writer, **WRITING), writer)):
        part, encode = made_up(task), Encoder(task, where)
        whole, labels = encode(part, task.labels)
        last = Part(part.texts[-1:], part.labels[-1:], ONE, part.tags[-1:], part.responses[-1:])
        alone, own = encode(last, task.labels)
        torch.testing.assert_close(whole["input_ids"][-1:], alone["input_ids"])
        torch.testing.assert_close(labels[-1:], own)


def test_a_tokenizer_that_cannot_tell_words_is_refused(folder, monkeypatch):
    class Slow:
        def __call__(self, *_: object, **__: object) -> object:
            raise ValueError("word_ids() is not available when using non-fast tokenizers")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(ConfigError, match="cannot tell which word a token is of"):
        Encoder(task_of(folder, **TAGS), folder)(Part(("red",), ONE, ONE, tags=((0,),)), ("no", "yes"))
