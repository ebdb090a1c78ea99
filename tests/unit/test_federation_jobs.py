"""From a rehearsal's job file to a prepared job."""

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from aggregator import cli as aggregator_cli
from federation import heart
from federation.cli import Root, build
from federation.jobs import (
    Membership,
    RehearsalFile,
    prepare,
    read_plan,
    rehearsal_plan,
    write_prepared,
)
from federation.promises import VERIFIED, promises
from privacy.errors import ConfigError
from privacy.flatten import adapter_digest
from privacy.plan import JobPlan, RosterMember
from runtime.config import read_toml, validated
from runtime.console import run
from tests.lone_silo import dp_fields
from tests.parties import Cohort

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SILOS = tuple(RosterMember(name=name, identity_key=f"{i:064x}") for i, name in enumerate(("north", "east", "west"), 1))
DEMO = Path(heart.__file__).parent
MEMBERS = Membership("trial", RosterMember(name="aggregator", identity_key="f" * 64), SILOS)
FILE = """
name = "try"
federation = "trial"
rounds = 2
[rehearsal]
values = 1000
update_range = 0.5
"""


def plan_of(text=FILE, silos=()):
    wanted = validated(RehearsalFile, tomllib.loads(text), "job file try.toml")
    return rehearsal_plan(wanted, MEMBERS, MEMBERS.roster(silos), NOW)


def test_a_rehearsal_names_all_members_sorted_and_starts_at_zero():
    plan = plan_of()
    assert [member.name for member in plan.cohort.roster] == ["east", "north", "west"]
    assert plan.cohort.minimum == 3
    assert plan.values == 1000
    assert plan.initial_adapter == adapter_digest(np.zeros(1000, np.float32)).hex()
    assert plan.created_utc == "2026-01-02T03:04:05Z"
    assert plan.dp is None


def test_two_submissions_of_one_file_are_two_jobs():
    assert plan_of().digest() != plan_of().digest()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (FILE.replace("values", "valeus"), "unknown key 'rehearsal.valeus'. Did you mean 'values'?"),
        (FILE.replace("values = 1000\n", ""), "job file try.toml: rehearsal.values: Field required"),
        (FILE.replace("1000", "0"), "rehearsal.values is 0: Input should be greater than 0"),
        (FILE.replace('"trial"', '"other"'), "'other', and this is 'trial'"),
        (FILE + "[cohort]\nminimum = 9\n", "cohort.minimum is 9; with 3 silos, 0 of them colluding, it must be 2-3"),
        (FILE + "[cohort]\nminimum = 0\n", "cohort.minimum is 0: Input should be greater than or equal to 2"),
        (
            FILE + "[cohort]\ntolerated_colluders = -1\n",
            "tolerated_colluders is -1: Input should be greater than or equal",
        ),
        (
            FILE + "[cohort]\ntolerated_colluders = 2\n",
            "is 2, and of 3 silos two have to be honest. Set it to at most 1",
        ),
        ('suite = "ckks"\n' + FILE, "suite: Input should be 'ckks-group' or 'ckks-multikey'"),
        ('parameters = "small"\n' + FILE, "ckks-group: has no parameter set 'small'. Its one set is 'group'."),
        ('open_to = "everybody"\n' + FILE, "open_to: Input should be 'silos' or 'silos+aggregator'"),
        ("grid_bits = 20\n" + FILE, "grid.bits: 20 is outside 8-16. Choose 8 to 16 bits"),
        (FILE + "[deadlines]\nsubmit = 3.0\n", "unknown key 'deadlines.submit'. Did you mean 'submit_s'?"),
        ('rounding = "up"\n' + FILE, "unknown key 'rounding'. Did you mean 'rounds'?"),
    ],
)
def test_a_wrong_key_is_named(text, complaint):
    with pytest.raises(ConfigError) as caught:
        plan_of(text)
    assert complaint in str(caught.value)


def federation_of(silos):
    """So many enrolled silos, silo-000 first."""
    roster = tuple(RosterMember(name=f"silo-{i:03}", identity_key=f"{i + 1:064x}") for i in range(silos))
    return Membership("trial", MEMBERS.aggregator, roster)


def plan_among(silos, head="", cohort=""):
    members = federation_of(silos)
    text = f"{head}\n{FILE}\n[cohort]\n{cohort}\n"
    return rehearsal_plan(validated(RehearsalFile, tomllib.loads(text), "job file"), members, members.roster([]), NOW)


@pytest.mark.parametrize(
    ("silos", "head", "suite", "parameters", "colluders", "minimum"),
    [
        (2, "", "ckks-group", "group", 0, 2),
        (3, "", "ckks-group", "group", 0, 3),
        (3, 'suite = "ckks-multikey"', "ckks-multikey", "small", 1, 3),
        (4, "", "ckks-multikey", "small", 1, 3),
        (4, 'suite = "ckks-group"', "ckks-group", "group", 0, 4),
        (10, 'parameters = "large"', "ckks-multikey", "large", 3, 7),
        (100, "", "ckks-multikey", "small", 33, 67),
    ],
)
def test_what_a_rehearsal_leaves_open_fits_its_silos(silos, head, suite, parameters, colluders, minimum):
    plan = plan_among(silos, head)
    assert (plan.suite.value, plan.parameters, plan.open_to) == (suite, parameters, "silos")
    assert (plan.cohort.tolerated_colluders, plan.cohort.minimum) == (colluders, minimum)


def test_what_a_rehearsal_names_stands():
    plan = plan_among(5, 'open_to = "silos+aggregator"', "minimum = 4\ntolerated_colluders = 2")
    assert plan.open_to == "silos+aggregator"
    assert (plan.cohort.tolerated_colluders, plan.cohort.minimum) == (2, 4)


MULTIKEY = 'suite = "ckks-multikey"'


@pytest.mark.parametrize(
    ("silos", "head", "cohort", "complaint"),
    [
        (2, MULTIKEY, "", "hides no update in a sum of so few. List 4 silos or more, or 3 with tolerated_colluders"),
        (3, MULTIKEY, "tolerated_colluders = 2", "Set tolerated_colluders = 1, which takes all three silos"),
        (4, "", "tolerated_colluders = 0", "Set tolerated_colluders to 1 or more (1 is usual here)"),
        (4, "", "tolerated_colluders = 3", "leaves fewer than two honest silos.*Set tolerated_colluders to at most 2"),
        (4, "", "minimum = 5", "never reaches the minimum cohort of 5. Set cohort.minimum to 3-4"),
        (5, "", "minimum = 3\ntolerated_colluders = 2", "cohort.minimum is 3; with 5 silos, 2 .* it must be 4-5"),
        (4, 'parameters = "group"', "", "no parameter set 'group'. Choose of: small, default, large"),
        (4, 'parameters = ""', "", "parameters: String should have at least 1 character"),
        (101, "", "", "takes at most 100 silos. List fewer silos"),
        (33, 'suite = "ckks-group"', "", "sums at most 32 updates.*or choose the suite ckks-multikey"),
    ],
)  # fmt: skip
def test_a_suite_that_cannot_be_says_what_would_work(tmp_path, silos, head, cohort, complaint):
    pattern = complaint.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ConfigError, match=pattern):
        plan_among(silos, head, cohort)
    (tmp_path / "job.toml").write_text(f"{head}\n{FILE}\n[cohort]\n{cohort}\n")
    with pytest.raises(ConfigError, match=pattern):
        prepare(tmp_path / "job.toml", tmp_path / "prepared", federation_of(silos))
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[dp]", "[pd]", "unknown key 'pd'. Did you mean 'dp'?"),
        ("clip_l2", "clip_norm", "unknown key 'dp.clip_norm'. Did you mean 'clip_l2'?"),
        ("age = { low", "age = { lowest", "unknown key 'normaliser.columns.age.lowest'. Did you mean 'low'?"),
        ("steps_per_round = 2", 'steps_per_round = "two"', "dp.steps_per_round: Input should be a valid integer"),
    ],
)
def test_a_wrong_key_of_a_job_on_data_is_named_as_in_a_configuration(tmp_path, old, new, complaint):
    job = tmp_path / "heart.toml"
    job.write_text((DEMO / "job.toml").read_text().replace(old, new))
    with pytest.raises(ConfigError) as caught:
        prepare(job, tmp_path / "prepared", MEMBERS)
    assert f"job file {job}: {complaint}" in str(caught.value)


def test_a_silo_that_is_not_enrolled_is_named_with_those_that_are():
    with pytest.raises(ConfigError, match="south not enrolled; enrolled are: east, north, west"):
        MEMBERS.roster(["south", "east"])


def test_one_silo_is_no_federation():
    with pytest.raises(ConfigError, match="needs two silos or more; enrolled are: north"):
        Membership("trial", MEMBERS.aggregator, SILOS[:1]).roster([])


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_toml(tmp_path / "job.toml", "job file")
    (tmp_path / "job.toml").write_text("name = ")
    with pytest.raises(ConfigError, match=r"job file .*Invalid value"):
        read_toml(tmp_path / "job.toml", "job file")
    (tmp_path / "job.toml").write_bytes(b"name = \xff")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_toml(tmp_path / "job.toml", "job file")


def test_a_prepared_job_reads_back_and_is_never_overwritten(tmp_path):
    (tmp_path / "job.toml").write_text(FILE)
    made = prepare(tmp_path / "job.toml", tmp_path / "prepared", MEMBERS, silos=("east", "north"))
    assert read_plan(tmp_path / "prepared") == made
    assert [member.name for member in made.cohort.roster] == ["east", "north"]
    with pytest.raises(ConfigError, match="already holds a prepared job"):
        write_prepared(tmp_path / "prepared", made, None)


def test_show_says_who_learns_what_and_what_a_lying_aggregator_gets(tmp_path, capsys):
    write_prepared(tmp_path, plan_of(), None)
    assert run(Root(), ["job", "show", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "EVERY update" in text
    assert "is found before anything is opened" in text
    assert "nothing: a rehearsal touches no data" in text
    assert run(Root(), ["job", "show", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["promises"] == promises(plan_of())
    assert told["promises"]["a lying aggregator"] == VERIFIED


def test_two_silos_are_told_that_they_cannot_hide_from_each_other():
    assert "cannot hide" in promises(plan_of(silos=("east", "west")))["one silo alone learns"]


def test_with_a_key_each_nobody_can_open_one_update_and_drop_outs_are_numbers(tmp_path, capsys):
    plan = plan_among(10)
    told = promises(plan)
    assert told.keys() - promises(plan_of()).keys() == {"aggregator + c silos learn"}
    assert promises(plan_of()).keys() <= told.keys()
    assert told["aggregator alone learns"] == "nothing, not even the sum"
    assert told["aggregator + 1 silo learn"] == "the sum less that silo's own update: nobody can open one update"
    assert "up to c = 3" in told["aggregator + c silos learn"]
    assert "down to 7 of 10 silos in a sum" in told["drop-outs"]
    assert "whenever they left: 3 of 10" in told["drop-outs"]
    assert told["consents to open a sum"].startswith("t = 7 of 10 silos")
    assert told["a lying aggregator"] == VERIFIED
    write_prepared(tmp_path, plan, None)
    assert run(Root(), ["job", "show", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "suite     ckks-multikey, parameters small" in text
    assert "opens to  silos\n" in text


def test_an_aggregator_that_is_given_the_model_is_not_said_to_learn_nothing():
    for silos in (3, 4):
        learned = promises(plan_among(silos, 'open_to = "silos+aggregator"'))["aggregator alone learns"]
        assert learned == "the last model, which a silo gives it when the job is over; no sum and no update"


def test_three_silos_with_a_key_each_are_told_that_all_must_be_there():
    told = promises(plan_among(3, MULTIKEY))
    assert "none: a sum takes all 3 silos" in told["drop-outs"]
    assert "whenever they left: 0 of 3" in told["drop-outs"]


def test_the_aggregators_submit_takes_a_job_file(tmp_path, monkeypatch):
    """The aggregator cannot plan jobs; the root command lends it the planner."""
    build("aggregator")
    asked = []
    monkeypatch.setattr("federation.membership.enrolled", lambda state: asked.append(state) or MEMBERS)
    (tmp_path / "job.toml").write_text(FILE)
    assert aggregator_cli.planner is not None
    aggregator_cli.planner(tmp_path / "job.toml", tmp_path / "prepared", tmp_path / "state")
    assert read_plan(tmp_path / "prepared").values == 1000
    assert asked == [tmp_path / "state"]


def test_what_the_aggregator_learns_says_what_is_published():
    plan = JobPlan.model_validate(dp_fields(Cohort("east", "north", "west"), metrics=METRICS))
    learned = promises(plan)["aggregator alone learns"]
    assert learned == "each round's accuracy and loss on all held-out parts together, noised and charged; nothing else"
    opened = plan.model_copy(update={"open_to": "silos+aggregator"})
    assert "noised and charged; the last model" in promises(opened)["aggregator alone learns"]


METRICS = {"noise_multiplier": 5.0, "loss_bound": 4.0, "most_units": 500}
