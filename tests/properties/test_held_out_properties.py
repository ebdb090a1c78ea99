"""The held-out split: to remove one unit of privacy removes it and moves no other, whatever the data."""

import json
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError
from silo_agent.dataset_spec import DatasetSpec
from silo_agent.datasets import Part, load_dataset

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)
ROWS = st.lists(st.tuples(TEXTS.filter(str.strip), st.sampled_from("ab"), st.integers(0, 8)), min_size=1, max_size=25)
STAYS = ("somebody", "a", 99)  # in training by the choice of the seed: a dataset with nothing to train on is refused


def split(rows, fraction, seed, *, patients):
    """Training and held-out records of a dataset, whatever their order."""
    value = {"name": "d", "population": "p", "public_size": 1, "path": "d.jsonl", "format": "jsonl"}
    value |= {"text_column": "text", "label": {"column": "label", "classes": ["a", "b"]}}
    value |= {"held_out": {"fraction": fraction, "seed": seed}} | ({"patient_column": "who"} if patients else {})
    with tempfile.TemporaryDirectory() as folder:
        lines = (json.dumps({"text": text, "label": label, "who": who}) for text, label, who in rows)
        (Path(folder) / "d.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        loaded = load_dataset(DatasetSpec.model_validate(value), Path(folder))
    return counted(loaded.training), counted(loaded.held_out)


def counted(part: Part) -> Counter:
    return Counter(zip(part.texts, part.labels.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    fraction=st.floats(0.05, 0.7),
    seed=st.integers(0, 2**128),
    patients=st.booleans(),
    chosen=st.integers(0, 10**6),
    order=st.randoms(use_true_random=False),
)
def test_to_remove_a_unit_changes_that_unit_s_membership_alone(rows, fraction, seed, patients, chosen, order):
    try:
        split([STAYS], fraction, seed, patients=patients)
    except ConfigError:
        assume(False)
    removed = chosen % len(rows)
    others = [
        row for i, row in enumerate(rows) if (row[2] != rows[removed][2] if patients else i != removed)
    ]  # a patient with all records, or one record
    training, held_out = split([STAYS, *rows], fraction, seed, patients=patients)
    remaining = [STAYS, *others]
    order.shuffle(remaining)
    training_without, held_out_without = split(remaining, fraction, seed, patients=patients)
    assert training_without <= training
    assert held_out_without <= held_out
    gone = (training - training_without).total(), (held_out - held_out_without).total()
    assert sum(gone) == len(rows) - len(others)
    assert 0 in gone, "a unit is on one side"
