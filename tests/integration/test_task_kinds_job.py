"""Jobs that tag words and jobs that write, from dataset files to an adapter that PEFT loads."""

import json

import numpy as np
import pytest
from cloister.wire import JobPhase
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from silo_agent.exporting import export_adapter
from tests.integration import test_silo_training_job as base
from tests.tiny import TAGS, WRITING, tiny_folder, tiny_writer

HEADER = {"name": "visits", "population": "patients", "public_size": 20, "path": "visits.csv", "format": "csv"}
TAGGED = HEADER | {
    "text_column": "note",
    "tags": {"column": "answer", "classes": {"no": ["O"], "yes": ["C"]}},
    "held_out": {"fraction": 0.3, "seed": 1},
}
WRITTEN = HEADER | {
    "template": "{note} value",
    "response_column": "answer",
    "held_out": {"fraction": 0.3, "seed": 1},
}


class NotesWorld(base.DataWorld):
    """Three silos whose notes are tagged, or answered."""

    answer = staticmethod(lambda words: "")

    def visits(self, draw: np.random.Generator, records: int) -> str:
        rows = []
        for i in range(records):
            words = [("red", "blue")[draw.integers(0, 2)], ("big", "small")[i % 2], str(i % 30)][:: (1, -1)[i // 2 % 2]]
            rows.append(f"{' '.join(words)},{type(self).answer(words)}")
        return "note,answer\n" + "\n".join(rows) + "\n"


class Tagged(NotesWorld):
    answer = staticmethod(lambda words: " ".join("C" if word in {"red", "blue"} else "O" for word in words))


class Written(NotesWorld):
    answer = staticmethod(lambda words: "warm" if "red" in words else "cold")


@pytest.mark.parametrize("kind", ["tags", "writing"])
def test_a_job_from_files_to_an_adapter(tmp_path, monkeypatch, kind):
    world_of, spec, changes = (Tagged, TAGGED, TAGS) if kind == "tags" else (Written, WRITTEN, WRITING)
    model = (tiny_folder if kind == "tags" else tiny_writer)(tmp_path / "model")
    monkeypatch.setattr(base, "SPEC", json.dumps(spec))
    world = world_of(tmp_path / "world", model, **changes, metrics={"noise_multiplier": 20.0, "most_units": 100})
    for name in base.NAMES:
        world.fund(name, 20.0)
    world.start()
    world.run()
    assert world.status().phase is JobPhase.FINISHED, world.where()
    assert len({world.record(name).adapter_digest for name in base.NAMES}) == 1
    results = world.silos["east"].state / "results" / world.job.hex()
    found = json.loads((results / "evaluation-2.json").read_text())
    assert (found["labels"], found["probabilities"]) == ([], [])
    assert found["loss"] > 0
    folder = export_adapter(world.silos["west"].home, "tiny", tmp_path / "adapter")
    if kind == "tags":
        loaded = AutoModelForTokenClassification.from_pretrained(str(model), num_labels=2)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(str(model))
    assert PeftModel.from_pretrained(loaded, str(folder)) is not None


def test_a_silo_whose_data_are_for_another_task_takes_no_part(tmp_path):
    """Its policy would approve; the dataset is of texts with a class each, and the job tags words."""
    model = tiny_folder(tmp_path / "model")
    world = base.DataWorld(tmp_path / "world", model, **{**TAGS, "adapter": {**TAGS["adapter"]}})
    for name in base.NAMES:
        world.fund(name, 20.0)
    world.start()
    world.turn()
    assert (
        "is described for sequence-classification; the job's task is token-classification" in world.record("east").why
    )
    assert not any(entry.kind == "reserve" for entry in world.entries("east"))
