from importlib.resources import files

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from federation.heart import hospitals
from federation.heart.baselines import majority_accuracy
from federation.heart.hospitals import HOSPITALS, job_file, load_hospital, write_hospital
from privacy.errors import ConfigError
from runtime.config import load_config
from silo_agent.dataset_spec import DatasetSpec
from silo_agent.job_file import JobFile


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heart")
    return {name: load_hospital(name, folder / name) for name in HOSPITALS}


def test_what_hospitals_say_of_their_sizes_is_rounded_and_true(datasets):
    said = {name: dataset.public_size for name, dataset in datasets.items()}
    assert said == {"cleveland": 190, "hungarian": 170, "switzerland": 30, "va": 80}
    least = load_config(JobFile, job_file(), "", {}).cohort.minimum_dataset_size
    assert all(least <= said[name] <= dataset.training.unit_count for name, dataset in datasets.items())


def test_sizes_and_positives_are_flamby_s(datasets):
    sizes = {n: (len(d.training.texts), len(d.held_out.texts)) for n, d in datasets.items()}
    assert sizes == {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
    positives = {n: int(d.training.labels.sum() + d.held_out.labels.sum()) for n, d in datasets.items()}
    assert positives == {"cleveland": 139, "hungarian": 98, "switzerland": 45, "va": 101}


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_split_is_flamby_s_record_for_record(datasets, hospital):
    """Worked out again from the raw file, without our reader."""
    raw = (files("federation.heart") / "data" / f"processed.{hospital}.data").read_text().splitlines()
    rows = [line.split(",") for line in raw]
    rows = [row[:10] + row[13:] for row in rows]
    rows = [[float(cell) for cell in row] for row in rows if "?" not in row]
    labels = np.array([row[10] > 0 for row in rows]).astype(int)
    stratify = labels if min(np.bincount(labels)) > 2 else None
    train, test = train_test_split(
        np.arange(len(rows)), test_size=0.34, train_size=0.66, random_state=43, shuffle=True, stratify=stratify
    )
    for part, chosen in ((datasets[hospital].training, train), (datasets[hospital].held_out, test)):
        expected = sorted((int(rows[i][0]), int(rows[i][3]), int(rows[i][7]), labels[i]) for i in chosen)
        found = []
        for text, label in zip(part.texts, part.labels, strict=True):
            words = text.replace(";", "").split()
            numbers = [words[0], words[words.index("mmHg") - 1], words[words.index("rate") + 1]]
            found.append((*map(int, numbers), label))
        assert sorted(found) == expected


def test_a_sentence_reads_like_one(datasets):
    assert datasets["cleveland"].training.texts[0] == (
        "63 year old man; chest pain: typical angina; resting blood pressure 145 mmHg; cholesterol 233 mg/dl; fasting"
        " blood sugar high; resting ECG: left ventricular hypertrophy; maximum heart rate 150; exercise angina: no;"
        " ST depression 2.3"
    )


def test_the_majority_class_is_no_small_bar(datasets):
    assert np.mean(list(majority_accuracy(datasets).values())) == pytest.approx(0.721, abs=0.001)


def test_made_up_patients_read_like_the_real_ones(tmp_path):
    job = load_config(JobFile, job_file(), "", {})
    spec = load_config(DatasetSpec, write_hospital("va", tmp_path), "", {})
    assert job.normaliser is not None
    assert job.normaliser.template == spec.template
    assert job.task.labels == tuple(spec.label.classes)
    for column, readings in spec.values.items():
        assert set(job.normaliser.columns[column].values) == set(readings.values())


def test_another_file_under_the_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(hospitals.MD5_BY_HOSPITAL, "va", "0" * 32)
    with pytest.raises(ConfigError, match="packaged file of va: has another digest"):
        write_hospital("va", tmp_path)


def test_the_source_is_named():
    text = (files("federation.heart") / "data" / "ATTRIBUTION.md").read_text()
    for name in ("Janosi", "Steinbrunn", "Pfisterer", "Detrano", "CC BY 4.0", "UCI"):
        assert name in text
