import hashlib
import hmac
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from privacy.errors import ConfigError, Refused
from runtime.config import load_config
from silo_agent.dataset_spec import DatasetSpec
from silo_agent.datasets import Part, load_dataset, require_fit
from tests.tiny import tiny_dataset, tiny_folder, tiny_job, tiny_plan

CSV = "age,sex,pressure,num,person\n" + "".join(
    f"{30 + i}.0,{i % 2},{'?' if i == 3 else 120 + i},{i % 3},p{i // 2}\n" for i in range(20)
)
TOML = """
name = "clinic"
population = "adults"
public_size = 5
path = "records.csv"
format = "csv"
missing = ["?"]
template = "{age} year old {sex}, pressure {pressure}"
[values.sex]
0 = "woman"
1 = "man"
[label]
column = "num"
[label.classes]
well = [0]
ill = [1, 2]
[held_out]
fraction = 0.25
seed = 4
"""


PATIENTS = TOML.replace('format = "csv"', 'format = "csv"\npatient_column = "person"')


def load(folder, toml=TOML, data=CSV):
    (folder / "records.csv").write_text(data)
    (folder / "dataset.toml").write_text(toml)
    return load_dataset(load_config(DatasetSpec, folder / "dataset.toml", "", {}), folder)


def changed(old, new):
    assert old in TOML
    return TOML.replace(old, new)


def test_the_documented_sample_is_a_dataset(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "prepare-a-dataset.md").read_text()
    (tmp_path / "dataset.toml").write_text(page.split("```toml\n", 1)[1].split("```", 1)[0])
    spec = load_config(DatasetSpec, tmp_path / "dataset.toml", "", {})
    assert (spec.public_size, spec.unit, spec.with_seed().held_out.fraction) == (400, "patient", 0.3)


def test_records_become_sentences_and_labels(tmp_path):
    dataset = load(tmp_path)
    texts = dataset.training.texts + dataset.held_out.texts
    assert len(texts) == 19  # the record with a gap is dropped
    assert "31 year old man, pressure 121" in texts
    assert not any("?" in text for text in texts)
    assert dataset.classes == ("well", "ill")
    at = texts.index("31 year old man, pressure 121")
    assert np.concatenate([dataset.training.labels, dataset.held_out.labels])[at] == 1
    assert dataset.unit == "record"
    assert dataset.training.unit_count == len(dataset.training.texts)


def many(count, patients=None):
    people = range(count) if patients is None else (i % patients for i in range(count))
    rows = (f"{30 + i},{i % 2},{120 + i % 9},{i % 3},p{person}\n" for i, person in enumerate(people))
    return "age,sex,pressure,num,person\n" + "".join(rows)


def test_the_held_out_part_repeats_hangs_on_the_seed_and_is_about_the_fraction(tmp_path):
    first, again = load(tmp_path, data=many(2000)), load(tmp_path, data=many(2000))
    assert first.held_out.texts == again.held_out.texts
    assert not set(first.held_out.texts) & set(first.training.texts)
    assert abs(len(first.held_out.texts) - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    other = load(tmp_path, changed("seed = 4", "seed = 5"), many(2000))
    both = set(other.held_out.texts) & set(first.held_out.texts)
    assert abs(len(both) - 125) < 5 * (2000 / 16 * 15 / 16) ** 0.5, "two seeds draw independently"


def test_membership_is_an_hmac_of_what_the_unit_is(tmp_path):
    """Worked out again, so that a version that moves records between the parts does not go unseen."""

    def held(*identity):
        mac = hmac.new(b"4", json.dumps(identity).encode(), hashlib.sha256).digest()
        return int.from_bytes(mac[:8], "big") / 2**64 < 0.25

    dataset = load(tmp_path)
    for part, expected in ((dataset.training, False), (dataset.held_out, True)):
        for text, label in zip(part.texts, part.labels, strict=True):
            assert held("record", ("well", "ill")[label], text) is expected
    by_patient = load(tmp_path, PATIENTS, many(40, patients=20))
    assert by_patient.held_out.unit_count == sum(held("patient", f"p{i}") for i in range(20))


def test_a_fraction_without_a_seed_gets_a_private_one_that_stays(tmp_path):
    (tmp_path / "records.csv").write_text(CSV)
    bare = DatasetSpec.model_validate(tomllib.loads(changed("seed = 4", "")))
    with pytest.raises(ConfigError, match=r"held_out.fraction has no seed.*datasets add"):
        load_dataset(bare, tmp_path)
    drawn, other = bare.with_seed(), bare.with_seed()
    assert drawn.held_out.seed != other.held_out.seed
    stored = DatasetSpec.model_validate_json(drawn.model_dump_json())
    assert bare.with_seed(stored) == stored == drawn
    assert load_dataset(stored, tmp_path).held_out.texts == load_dataset(drawn, tmp_path).held_out.texts
    given = DatasetSpec.model_validate(tomllib.loads(TOML))
    assert given.with_seed(stored) is given
    marked = DatasetSpec.model_validate(tomllib.loads(changed("fraction = 0.25\nseed = 4", 'path = "x.csv"')))
    assert marked.with_seed() is marked


def test_a_gap_may_be_said(tmp_path):
    dataset = load(tmp_path, changed("[values.sex]", '[missing_text]\npressure = "unknown"\n[values.sex]'))
    assert "33 year old man, pressure unknown" in dataset.training.texts + dataset.held_out.texts


def test_held_out_by_column_and_by_file(tmp_path):
    by_column = changed("fraction = 0.25\nseed = 4", 'column = "sex"\nvalue = "1"')
    assert all(" man," in text for text in load(tmp_path, by_column).held_out.texts)
    (tmp_path / "apart.csv").write_text(CSV.replace("30.0", "77"))
    apart = load(tmp_path, changed("fraction = 0.25\nseed = 4", 'path = "apart.csv"'))
    assert len(apart.training.texts) == 19
    assert apart.held_out.texts[0].startswith("77 year old")


def test_patients_are_units_and_stay_on_one_side(tmp_path):
    dataset = load(tmp_path, PATIENTS)
    assert dataset.unit == "patient"
    assert dataset.training.unit_count + dataset.held_out.unit_count == 10
    assert dataset.training.unit_count < len(dataset.training.texts)
    assert 0 < dataset.held_out.unit_count < 10


def test_a_patient_on_both_sides_is_refused(tmp_path):
    toml = PATIENTS.replace("fraction = 0.25\nseed = 4", 'column = "sex"\nvalue = "1"')
    with pytest.raises(ConfigError, match="both in training and held out"):
        load(tmp_path, toml)


def test_jsonl_and_parquet_read_alike(tmp_path):
    rows = [{"note": f"case {i}", "kind": i % 2 == 0, "n": None if i == 2 else i} for i in range(8)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    loaded = []
    for form in ("jsonl", "parquet"):
        spec = DatasetSpec.model_validate(
            {
                "name": "notes",
                "population": "adults",
                "public_size": 1,
                "path": f"a.{form}",
                "format": form,
                "template": "{note}, {n}",
                "label": {"column": "kind", "classes": [True, False]},
                "held_out": {"fraction": 0.3, "seed": 1},
            }
        )
        loaded.append(load_dataset(spec, tmp_path))
    assert loaded[0].training.texts == loaded[1].training.texts
    assert "case 3, 3" in loaded[0].training.texts + loaded[0].held_out.texts
    assert loaded[0].classes == ("true", "false")


def test_a_csv_without_header(tmp_path):
    toml = changed('format = "csv"', 'format = "csv"\ncolumns = ["age", "sex", "pressure", "num", "person"]')
    dataset = load(tmp_path, toml, CSV.split("\n", 1)[1])
    assert len(dataset.training.texts) + len(dataset.held_out.texts) == 19
    wrong = toml.replace(', "person"', "")
    with pytest.raises(ConfigError, match=r"names 4 columns and records.csv has 5"):
        load(tmp_path, wrong, CSV.split("\n", 1)[1])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('column = "num"', 'column = "nun"', "no column 'nun'; the nearest is 'num'"),
        ("{pressure}", "{presure}", "no column 'presure'; the nearest is 'pressure'"),
        ("ill = [1, 2]", "ill = [1]", "row 3 of dataset 'clinic': the value in 'num' belongs to none of the classes"),
        ('1 = "man"', '2 = "man"', "row 2 of dataset 'clinic': the value in 'sex' has no entry in values.sex"),
        ('path = "records.csv"', 'path = "gone.csv"', "there is no file"),
        ('format = "csv"', 'format = "parquet"', "does not read as parquet"),
        ('format = "csv"', 'format = "jsonl"', "does not read as jsonl"),
        ('missing = ["?"]', 'missing = ["?", "0"]', "no label in 'num'"),
        ("{age} year old {sex}, pressure {pressure}", "{age.real}", "not the plain name of a column"),
        ("ill = [1, 2]", "ill = [0, 1, 2]", "gives one value to two classes"),
        ("ill = [1, 2]\n", "", "at least two classes"),
        ("ill = [1, 2]\n", "ill = []\n", "needs a list of the values"),
        ("seed = 4", 'path = "x.csv"', "exactly one of fraction"),
        ("fraction = 0.25\nseed = 4", 'column = "sex"', "go together"),
        ("fraction = 0.25", 'path = "x.csv"', "held_out.seed goes with held_out.fraction"),
        ("public_size = 5\n", "", "public_size"),
        ("public_size = 5", "public_size = 20", "fewer than public_size = 20 records are left to train on"),
        ("[values.sex]", "[values.sax]", "the sentence does not use this column"),
        ("{age} year old", "{num} year old", "the label column 'num' is part of the sentence"),
        ('template = "', 'text_column = "age"\ntemplate = "', "either text_column or template"),
        ("templat", "tempalt", "Did you mean 'template'?"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, changed(old, new))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "does not read as csv"),
        (CSV + "1,2,3,4,5,6,7\n", "does not read as csv"),
        ("age,sex,pressure,num,person\n30,1,?,0,p\n", "fewer than public_size = 5 records are left to train on"),
        ("age,sex,pressure,num,person\n", "fewer than public_size = 5 records are left to train on"),
        (CSV + "\xff".encode("latin-1").decode("utf-8", "surrogateescape"), "does not read as csv"),
    ],
)
def test_bad_files(tmp_path, data, message):
    (tmp_path / "records.csv").write_bytes(data.encode("utf-8", "surrogateescape"))
    (tmp_path / "dataset.toml").write_text(TOML)
    with pytest.raises(ConfigError) as caught:
        load_dataset(load_config(DatasetSpec, tmp_path / "dataset.toml", "", {}), tmp_path)
    assert message in str(caught.value)


def test_a_null_patient_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"row 21 of dataset 'clinic': no patient in 'person'"):
        load(tmp_path, PATIENTS, CSV + "50,1,130,0,\n")


def test_errors_carry_no_value_of_a_record(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, data=CSV + "50,1,130,SECRET,p9\n")
    assert "SECRET" not in str(caught.value)


def test_repr_shows_no_record(tmp_path):
    assert "year old" not in repr(load(tmp_path))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


ODD = "age,sex,pressure,num,person\n"


@pytest.mark.parametrize(
    ("row", "known", "complaint"),
    [
        ("{age},1,{pressure},{label},p{i}", 'constant_columns = ["sex"]', "column 'sex' is the same in every record"),
        ("{age},{sex},{pressure},1,p{i}", 'constant_columns = ["num"]', "column 'num' is the same in every record"),
        (
            "{age},{sex},{pressure},{label},p{most}",
            "one_patient_may_dominate = true",
            "one patient in 'person' has more than half of the records",
        ),
    ],
)
def test_what_is_nearly_always_a_mistake_is_refused_unless_it_is_known(tmp_path, row, known, complaint):
    def rows(count):
        draw = range(count)
        return ODD + "".join(
            row.format(age=30 + i, sex=i % 2, pressure=100 + i, label=i % 3, i=i, most=max(0, i - count // 2)) + "\n"
            for i in draw
        )

    with pytest.raises(ConfigError, match=complaint) as caught:
        load(tmp_path, PATIENTS, rows(40))
    assert known in caught.value.next_step
    keyed = PATIENTS.replace('format = "csv"', f'format = "csv"\n{known}')
    assert load(tmp_path, keyed, rows(40)).unit == "patient"
    assert load(tmp_path, PATIENTS, rows(19)).unit == "patient", "too few to judge by"


def test_known_oddities_must_be_about_what_is_used(tmp_path):
    with pytest.raises(ConfigError, match="neither sentence nor label uses 'height'"):
        load(tmp_path, changed('format = "csv"', 'format = "csv"\nconstant_columns = ["height"]'))
    with pytest.raises(ConfigError, match="one_patient_may_dominate goes with patient_column"):
        load(tmp_path, changed('format = "csv"', 'format = "csv"\none_patient_may_dominate = true'))


def test_a_delta_of_more_than_one_in_the_public_size_is_refused(model_folder):
    plan, _ = tiny_plan(tiny_job(), model_folder)  # delta 0.01
    require_fit(tiny_dataset(200, public_size=100), plan)
    with pytest.raises(Refused, match=r"the job's delta is 0.01, more than one in its 101 records.*at most 0.0099"):
        require_fit(tiny_dataset(200, public_size=101), plan)


@pytest.mark.parametrize("records", [50, 51, 5000])
def test_jobs_are_measured_by_the_public_size_never_by_the_count(model_folder, records):
    """Whatever minimum a coordinator asks for, one number is all that the answers tell."""
    dataset = tiny_dataset(records, public_size=50)
    plan, _ = tiny_plan(tiny_job(cohort={"minimum_dataset_size": 50}), model_folder)
    require_fit(dataset, plan)
    cohort = plan.cohort.model_copy(update={"minimum_dataset_size": 51})
    with pytest.raises(Refused, match="its public_size is 50 records, below the job's minimum of 51"):
        require_fit(dataset, plan.model_copy(update={"cohort": cohort}))


def test_a_public_size_is_a_promise_about_what_is_trained_on(tmp_path):
    dataset = load(tmp_path, PATIENTS, many(40, patients=20))
    patients = dataset.training.unit_count
    assert patients < len(dataset.training.texts)
    exact = PATIENTS.replace("public_size = 5", f"public_size = {patients}")
    assert load(tmp_path, exact, many(40, patients=20)).public_size == patients
    more = PATIENTS.replace("public_size = 5", f"public_size = {patients + 1}")
    with pytest.raises(ConfigError, match=rf"fewer than public_size = {patients + 1} patients are left") as caught:
        load(tmp_path, more, many(40, patients=20))
    assert f"{patients} " not in str(caught.value)


def test_a_dataset_must_fit_the_job(model_folder):
    plan, _ = tiny_plan(tiny_job(), model_folder)
    require_fit(tiny_dataset(), plan)
    other, _ = tiny_plan(tiny_job(task={"labels": ["no", "maybe"]}), model_folder)
    with pytest.raises(ConfigError, match="its classes are no, yes; the job's are no, maybe"):
        require_fit(tiny_dataset(), other)


def test_a_job_protects_the_unit_of_the_population_and_no_other(model_folder):
    records, _ = tiny_plan(tiny_job(), model_folder)
    patients, _ = tiny_plan(tiny_job(dp={"unit": "patient"}), model_folder)
    require_fit(tiny_dataset(40, patients=10), patients)
    with pytest.raises(Refused, match="the job protects one patient, and the unit of this dataset's population is the"):
        require_fit(tiny_dataset(), patients)
    with pytest.raises(Refused, match=r"the job protects one record, .* is the patient"):
        require_fit(tiny_dataset(40, patients=10), records)


def test_one_null_changes_no_other_row_s_text(tmp_path):
    """As floats, these numbers would round to the same one."""
    notes, kinds = [2**60 + i for i in range(6)], [i % 2 for i in range(6)]
    spec = {"name": "notes", "population": "adults", "public_size": 1, "path": "a.parquet", "format": "parquet"}
    spec |= {"text_column": "note", "label": {"column": "kind", "classes": [0, 1]}}
    spec |= {"held_out": {"fraction": 0.5, "seed": 0}}
    found = []
    for table in ({"note": notes, "kind": kinds}, {"note": [*notes, None], "kind": [*kinds, 0]}):
        write_table(pa.table(table), tmp_path / "a.parquet")
        dataset = load_dataset(DatasetSpec.model_validate(spec), tmp_path)
        found.append((dataset.training.texts, dataset.held_out.texts))
    assert found[0] == found[1]
    assert len({text for part in found[0] for text in part}) == 6


def test_an_empty_part_has_no_unit():
    assert Part((), np.array([], dtype=np.int64), np.array([], dtype=np.int64)).unit_count == 0


# -- words and responses -----------------------------------------------------------------------------------------------

HEADER = 'name = "notes"\npopulation = "adults"\npublic_size = 2\n'
TAGGED = (
    HEADER
    + """path = "records.jsonl"
format = "jsonl"
text_column = "words"
[tags]
column = "tags"
classes = { other = ["O"], drug = ["B-DRUG", "I-DRUG"] }
[held_out]
column = "part"
value = "test"
"""
)
ANSWERED = (
    HEADER
    + """path = "records.csv"
format = "csv"
template = "Summarise: {note}\\nSummary:"
response_column = "summary"
[held_out]
fraction = 0.5
seed = 3
"""
)
LINES = [
    {"words": ["takes", "folic", "acid"], "tags": ["O", "B-DRUG", "I-DRUG"], "part": "train"},
    {"words": ["no", "drugs"], "tags": ["O", "O"], "part": "train"},
    {"words": "feels well", "tags": "O O", "part": "test"},
]


def tagged(folder, lines=LINES, toml=TAGGED):
    (folder / "records.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "dataset.toml").write_text(toml)
    return load_dataset(load_config(DatasetSpec, folder / "dataset.toml", "", {}), folder)


def test_words_and_their_tags_come_as_lists_or_between_spaces(tmp_path):
    dataset = tagged(tmp_path)
    assert (dataset.task, dataset.classes) == ("token-classification", ("other", "drug"))
    assert dataset.training.texts == ("takes folic acid", "no drugs")
    assert dataset.training.tags == ((0, 1, 1), (0, 0))
    assert (dataset.held_out.texts, dataset.held_out.tags) == (("feels well",), ((0, 0),))


def test_lists_of_words_come_from_parquet_too(tmp_path):
    write_table(pa.Table.from_pylist(LINES[:2]), tmp_path / "records.parquet")
    toml = TAGGED.replace("jsonl", "parquet")
    (tmp_path / "dataset.toml").write_text(toml)
    dataset = load_dataset(load_config(DatasetSpec, tmp_path / "dataset.toml", "", {}), tmp_path)
    assert dataset.training.tags == ((0, 1, 1), (0, 0))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tags": ["O", "B-DRUG"]}, r"row 1 of dataset 'notes': 'tags' has not one tag for each word of the text"),
        ({"tags": ["O", "X", "O"]}, r"row 1 .*the value in 'tags' belongs to none of the classes.*tags.classes"),
        ({"words": ["takes", "folic acid", "."]}, r"row 1 .*a word in 'words' is empty or has a space in it"),
        ({"words": ["takes", "", "."]}, r"row 1 .*a word in 'words' is empty or has a space in it"),
        ({"tags": None}, r"row 1 .*no tags in 'tags'.*tags.missing"),
    ],
)
def test_tags_that_do_not_fit_their_words_are_named(tmp_path, change, complaint):
    with pytest.raises(ConfigError) as found:
        tagged(tmp_path, [LINES[0] | change, *LINES[1:]])
    assert re.search(complaint, str(found.value))
    assert "folic" not in str(found.value)


def test_tags_may_be_missing_where_that_is_said(tmp_path):
    lines = [LINES[0], LINES[1], LINES[1] | {"tags": None}, LINES[2]]
    dataset = tagged(tmp_path, lines, TAGGED.replace("[held_out]", 'missing = "drop"\n[held_out]'))
    assert len(dataset.training.texts) == 2


ANSWERS = "note,summary\n" + "".join(f"note number {i},summary {i}\n" for i in range(12))


def test_prompts_and_responses(tmp_path):
    dataset = load(tmp_path, ANSWERED, ANSWERS)
    assert (dataset.task, dataset.classes) == ("causal-language-modelling", ())
    both = dict(
        zip(
            dataset.training.texts + dataset.held_out.texts,
            dataset.training.responses + dataset.held_out.responses,
            strict=True,
        )
    )
    assert both["Summarise: note number 3\nSummary:"] == "summary 3"
    assert len(both) == 12
    assert dataset.held_out.texts


def test_a_response_is_a_part_of_a_record_s_identity_and_may_not_be_missing(tmp_path):
    first = load(tmp_path, ANSWERED, ANSWERS)
    other = load(tmp_path, ANSWERED, ANSWERS.replace("summary ", "other "))
    assert first.held_out.texts != other.held_out.texts, "of twelve with other responses other ones are held out"
    with pytest.raises(ConfigError, match=r"row 3 of dataset 'notes': no response in 'summary'"):
        load(tmp_path, ANSWERED, ANSWERS.replace("summary 2", ""))
    same = "note,summary\n" + "".join(f"note {i},the same\n" for i in range(30))
    with pytest.raises(ConfigError, match="column 'summary' is the same in every record"):
        load(tmp_path, ANSWERED, same)


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        (ANSWERED.replace('response_column = "summary"\n', ""), "give one of label, tags and response_column"),
        (TAGGED.replace('text_column = "words"', 'template = "{words}"'), "tags go with text_column"),
        (ANSWERED.replace('"summary"', '"note"'), "the response column 'note' is part of the sentence"),
        (TOML.replace("[held_out]", '[tags]\ncolumn = "t"\nclasses = ["a", "b"]\n[held_out]'), "give one of label"),
    ],
)
def test_a_description_is_for_one_task(tmp_path, toml, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path, toml, ANSWERS)
