"""`cloister silo ...` as an operator and a steward use it, up to where an aggregator is needed."""

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from privacy.errors import ConfigError, ExitCode
from runtime import logs
from runtime.config import load_config
from runtime.console import run
from runtime.files import StateLock
from silo_agent import budget_cli, cli, command, daemon, reviews_cli
from silo_agent.agent import Agent
from silo_agent.cli import app
from silo_agent.daemon import run_until_signalled
from silo_agent.dataset_spec import DatasetSpec
from silo_agent.display import forecast_lines
from silo_agent.jobs import OPEN, JobState, find_job, set_job_state
from silo_agent.register import require_dataset
from silo_agent.settings import SiloSettings
from silo_agent.status import StatusBoard
from tests.lone_silo import NOW, OWN, LoneSilo
from tests.tiny import tiny_folder

FP = " ".join(["abcd"] * 16)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The ledger takes no entry that is older than its newest."""
    for module in (command, cli, budget_cli, reviews_cli):
        monkeypatch.setattr(module, "now", lambda: NOW)


@pytest.fixture
def silo(tmp_path):
    silo = LoneSilo(tmp_path, charged=True, approved=False)
    with silo.home.store.writing() as tx:
        set_job_state(tx.connection, silo.job, JobState.SEEN, NOW, expected=OPEN)
    silo.home.store.close()
    return silo


def ask(silo, capsys, *words):
    """What a command says with --json, and its exit code."""
    code = run(app, [*words, "--state", str(silo.folder), "--json"])
    return code, json.loads(capsys.readouterr().out)


def complain(silo, capsys, *words):
    """What a command says to a person when it fails: three lines."""
    code = run(app, [*words, "--state", str(silo.folder)])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["cloister", "why", "next"]
    return code, "\n".join(lines)


def test_peers_are_pinned_by_fingerprint(silo, capsys):
    code, said = ask(silo, capsys, "peers", "trust", "south", FP.replace(" ", ":").upper())
    assert (code, said["fingerprint"]) == (0, FP)
    _, listed = ask(silo, capsys, "peers", "list")
    assert {"role": "silo", "name": "south", "fingerprint": FP} in listed["peers"]
    assert ask(silo, capsys, "peers", "trust", "south", FP[::-1], "--role", "aggregator")[0] == 0
    _, listed = ask(silo, capsys, "peers", "list")
    known = {(peer["role"], peer["name"]): peer["fingerprint"] for peer in listed["peers"]}
    assert (known["silo", "south"], known["aggregator", "south"]) == (FP, FP[::-1])
    assert len(listed["own"]) == len(FP)
    pins = [entry for entry in silo.entries if entry.kind == "key"]
    assert [entry.party for entry in pins] == ["cloister://test/silo/south", "cloister://test/aggregator/south"]
    assert (pins[0].action, pins[0].fingerprint, pins[0].role) == ("pinned", FP.replace(" ", ""), "steward")
    silo.verify()
    assert ask(silo, capsys, "peers", "trust", "south", FP)[1]["replaced"] is None
    assert run(app, ["peers", "trust", "south", "0" * 64, "--state", str(silo.folder)]) == 0
    assert capsys.readouterr().out.endswith(f"no longer to {FP}\n"), "a pin is not changed unnoticed"
    code, text = complain(silo, capsys, "peers", "trust", "south", "abcd")
    assert code == ExitCode.CONFIG
    assert "is not 64 hexadecimal digits" in text
    code, text = complain(silo, capsys, "peers", "trust", "South Clinic", FP)
    assert "is not a name" in text


def test_a_budget_is_set_once_and_shown(silo, capsys):
    code, said = ask(silo, capsys, "budget", "set", "visitors", "--epsilon", "2", "--delta", "1e-4")
    assert (code, said["unit"]) == (0, "record")
    code, text = complain(silo, capsys, "budget", "set", "visitors", "--epsilon", "9", "--delta", "1e-4")
    assert code == ExitCode.REFUSED
    assert "one person alone cannot change a budget" in text
    code, text = complain(silo, capsys, "budget", "set", "others", "--epsilon", "0", "--delta", "1e-4")
    assert code == ExitCode.CONFIG
    _, shown = ask(silo, capsys, "budget", "show")
    assert [row["population"] for row in shown["budgets"]] == ["patients", "visitors"]
    assert shown["budgets"][1] | {"left": 2.0, "spent": 0.0, "reserved": 0.0} == shown["budgets"][1]
    assert run(app, ["budget", "show", "--state", str(silo.folder)]) == 0
    text = capsys.readouterr().out
    assert "visitors: each record is protected, at delta 0.0001\n" in text
    assert "epsilon 2 in all: 0 spent, 0 reserved, 2 left; 0 rounds charged" in text


def test_a_budget_has_a_unit_that_jobs_must_share(silo, capsys):
    words = ("budget", "set", "wards", "--epsilon", "8", "--delta", "1e-3", "--unit", "patient")
    assert ask(silo, capsys, *words)[1]["unit"] == "patient"
    assert silo.entries[-1].unit == "patient"
    _, shown = ask(silo, capsys, "budget", "show")
    assert [(row["population"], row["unit"]) for row in shown["budgets"]] == [
        ("patients", "record"),
        ("wards", "patient"),
    ]
    _, shown = ask(silo, capsys, "budget", "show", "--job", "rehearsal")
    assert [row["fits"] for row in shown["budgets"]] == [True, False]
    assert shown["budgets"][1]["why_not"] == "it protects each patient, and the job protects each record"


def test_a_job_that_cannot_be_priced_does_not_hide_the_others(tmp_path, capsys):
    silo = LoneSilo(tmp_path, charged=True, approved=False, noise_multiplier=1e-9)
    _, listed = ask(silo, capsys, "jobs")
    assert [(job["name"], job["epsilon"]) for job in listed["jobs"]] == [("rehearsal", None)]
    assert run(app, ["jobs", "--state", str(silo.folder)]) == 0
    text = capsys.readouterr().out
    assert "no epsilon at all" in text
    assert "suite   ckks-group, the model goes to silos\n" in text
    code, text = complain(silo, capsys, "budget", "show", "--job", "rehearsal")
    assert (code, "its mechanism cannot be priced" in text) == (ExitCode.REFUSED, True)


def test_what_a_job_would_cost_is_said_before_it_runs(silo, capsys):
    _, shown = ask(silo, capsys, "budget", "show", "--job", "rehearsal")
    (row,) = shown["budgets"]
    assert row["fits"] is True
    assert 0 < row["one_round_alone"] < row["after"] < 8.0
    assert run(app, ["budget", "show", "--job", "rehearsal", "--state", str(silo.folder)]) == 0
    text = capsys.readouterr().out
    assert "patients: rehearsal fits\n" in text
    assert "    2 rounds would bring epsilon from 0 to " in text
    no_longer = {**row, "after": 9.5, "fits": False, "rounds_that_fit": 1, "epsilon_needed": 9.5}
    text = "\n".join(forecast_lines("rehearsal", [no_longer]))
    assert "rehearsal does not fit\n    2 rounds would bring epsilon from 0 to 9.5 of 8 at delta 0.001\n" in text
    assert text.endswith("    1 such rounds still fit; all of them would take a cap of 9.5")
    code, text = complain(silo, capsys, "budget", "show", "--job", "nothing")
    assert code == ExitCode.CONFIG
    assert "is no job here" in text


def test_jobs_are_listed_with_what_they_cost(silo, capsys):
    _, listed = ask(silo, capsys, "jobs")
    (job,) = listed["jobs"]
    assert (job["name"], job["state"], job["delta"]) == ("rehearsal", "seen", 1e-3)
    assert job["epsilon"] > 0
    assert run(app, ["jobs", "--state", str(silo.folder)]) == 0
    text = capsys.readouterr().out
    assert "to try the machinery" in text
    assert "cloister silo approve rehearsal --dataset NAME" in text


def test_approval_needs_a_dataset_that_is_registered(silo, capsys):
    code, text = complain(silo, capsys, "approve", "rehearsal")
    assert (code, "no dataset is named" in text) == (ExitCode.CONFIG, True)
    code, text = complain(silo, capsys, "approve", "rehearsal", "--dataset", "vists")
    assert (code, "is not registered" in text) == (ExitCode.CONFIG, True)


def test_a_job_is_refused_once_and_on_record(silo, capsys):
    code, said = ask(silo, capsys, "refuse", silo.job.hex()[:10])
    assert (code, said["state"]) == (0, "refused")
    with silo.home.store.reading() as connection:
        record = find_job(connection, silo.job)
    assert (record.state, record.decided_by != "") == (JobState.REFUSED, True)
    last = silo.entries[-1]
    assert (last.decision, last.reason, last.role) == ("steward", "declined", "steward")
    assert complain(silo, capsys, "refuse", "rehearsal")[0] == ExitCode.REFUSED
    assert complain(silo, capsys, "approve", "rehearsal", "--dataset", "visits")[0] == ExitCode.REFUSED


SPEC = """
name = "{name}"
population = "patients"
public_size = 1
path = "visits.csv"
format = "csv"
text_column = "note"

[label]
column = "{label}"
classes = ["0", "1"]

[held_out]
fraction = 0.5
"""


def test_a_dataset_is_read_when_it_is_registered(silo, capsys, tmp_path):
    (tmp_path / "visits.csv").write_text("note,ill\n" + "".join(f"visit {i},{i % 2}\n" for i in range(60)))
    (tmp_path / "spec.toml").write_text(SPEC.format(name="visits", label="ill"))
    code, said = ask(silo, capsys, "datasets", "add", str(tmp_path / "spec.toml"))
    assert (code, said["population"], said["unit"]) == (0, "patients", "record")
    _, listed = ask(silo, capsys, "datasets", "list")
    assert [item["name"] for item in listed["datasets"]] == ["visits"]
    with silo.home.store.reading() as connection:
        registered = require_dataset(connection, "visits")
    assert DatasetSpec.model_validate_json(registered.spec).held_out.seed is not None
    assert ask(silo, capsys, "datasets", "add", str(tmp_path / "spec.toml"))[0] == 0, "a second time changes nothing"
    with silo.home.store.reading() as connection:
        assert require_dataset(connection, "visits") == registered
    (tmp_path / "spec.toml").write_text(SPEC.format(name="fresh", label="ill").replace("patients", "people"))
    code, text = complain(silo, capsys, "datasets", "add", str(tmp_path / "spec.toml"))
    assert (code, "of population patients already, in dataset visits" in text) == (ExitCode.REFUSED, True)
    (tmp_path / "spec.toml").write_text(SPEC.format(name="more", label="il"))
    code, text = complain(silo, capsys, "datasets", "add", str(tmp_path / "spec.toml"))
    assert code == ExitCode.CONFIG
    assert "has no column 'il'; the nearest is 'ill'" in text


def rows(start, end):
    return "".join(f"visit {i},{i % 2}\n" for i in range(start, end))


def described(folder, name, population, rows, head="note,ill\n"):
    """A dataset of these rows, by its description."""
    (folder / f"{name}.csv").write_text(head + rows)
    spec = SPEC.format(name=name, label="ill").replace("visits.csv", f"{name}.csv")
    (folder / f"{name}.toml").write_text(spec.replace('"patients"', f'"{population}"'))
    return "datasets", "add", str(folder / f"{name}.toml")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (rows(0, 40) + "\n", "at least half of its records are of population patients already, in dataset visits"),
        (rows(20, 60), "at least half of its records are of population patients already, in dataset visits"),
        (rows(5, 39) * 2, "at least half"),
        (rows(20, 400), "it has at least half of the records of dataset visits, of population patients"),
    ],
    ids=["an empty line more", "half of them", "each twice", "and many others"],
)
def test_the_same_people_get_no_second_budget_under_another_name(silo, capsys, tmp_path, other, why):
    assert ask(silo, capsys, *described(tmp_path, "visits", "patients", rows(0, 40)))[0] == 0
    code, text = complain(silo, capsys, *described(tmp_path, "others", "pop-b", other))
    assert (code, why in text) == (ExitCode.REFUSED, True)
    assert 'set population = "patients"' in text
    assert ask(silo, capsys, *described(tmp_path, "others", "patients", other))[0] == 0


def test_patients_are_known_again_whatever_is_said_of_them(silo, capsys, tmp_path):
    def wards(name, population, first, word):
        lines = "".join(f"{word} {i},{i % 2},p{i}\n" for i in range(first, first + 40))
        words = described(tmp_path, name, population, lines, "note,ill,who\n")
        spec = Path(words[-1])
        spec.write_text('patient_column = "who"\n' + spec.read_text())
        return words

    assert ask(silo, capsys, *wards("wards", "patients", 0, "visit"))[0] == 0
    code, text = complain(silo, capsys, *wards("letters", "pop-b", 20, "letter"))
    assert (code, "of population patients already, in dataset wards" in text) == (ExitCode.REFUSED, True)
    assert ask(silo, capsys, *wards("letters", "pop-b", 21, "letter"))[1]["not_compared"] == []


def test_other_people_are_another_population(silo, capsys, tmp_path):
    """Less than half may be the same; a dataset whose file is gone is named, and its file's digest still counts."""
    assert ask(silo, capsys, *described(tmp_path, "visits", "patients", rows(0, 40)))[0] == 0
    code, said = ask(silo, capsys, *described(tmp_path, "others", "pop-b", rows(21, 61)))
    assert (code, said["not_compared"]) == (0, [])
    (tmp_path / "visits.csv").unlink()
    again = described(tmp_path, "again", "pop-d", rows(0, 40))
    code, text = complain(silo, capsys, *again, "--not-compared", "visits")
    assert (code, "again.csv is of population patients already, in dataset visits" in text) == (ExitCode.REFUSED, True)
    more = described(tmp_path, "more", "pop-c", rows(0, 19) + "\n")
    code, text = complain(silo, capsys, *more)
    assert (code, "cannot be compared with dataset visits of population patients" in text) == (ExitCode.REFUSED, True)
    assert run(app, [*more, "--not-compared", "visits", "--state", str(silo.folder)]) == 0
    assert "\nnot compared with dataset visits of population patients: " in capsys.readouterr().out
    code, said = ask(silo, capsys, *more, "--not-compared", "visits")
    (uncompared,) = said["not_compared"]
    assert (uncompared["name"], uncompared["population"], "there is no file" in uncompared["why"]) == (
        "visits", "patients", True,
    )  # fmt: skip


def test_a_dataset_whose_file_was_changed_is_not_compared_as_if_it_were_the_same(silo, capsys, tmp_path):
    assert ask(silo, capsys, *described(tmp_path, "visits", "patients", rows(0, 40)))[0] == 0
    (tmp_path / "visits.csv").write_text("note,ill\n" + rows(1000, 1040))
    more = described(tmp_path, "more", "pop-b", rows(0, 39))
    code, text = complain(silo, capsys, *more)
    why = (
        "cannot be compared with dataset visits of population patients: visits.csv has changed since it was registered"
    )
    assert (code, why in text, "`--not-compared visits`" in text) == (ExitCode.REFUSED, True, True)
    assert ask(silo, capsys, "datasets", "add", str(tmp_path / "visits.toml"))[0] == 0, "registered as it is now"
    code, text = complain(silo, capsys, *more)
    why = "cannot be compared with dataset visits of population patients: its files held something else when they were"
    assert (code, why in text) == (ExitCode.REFUSED, True)
    code, text = complain(silo, capsys, *more, "--not-compared", "visit")
    assert (code, "dataset 'visit'" in text, "is not registered (there are: " in text) == (ExitCode.CONFIG, True, True)
    code, said = ask(silo, capsys, *more, "--not-compared", "visits")
    assert (code, [each["name"] for each in said["not_compared"]]) == (0, ["visits"])


def test_other_weights_are_named_at_approval(silo, capsys, tmp_path):
    rows = "".join(f"visit {i},{('no', 'yes')[i % 2]}\n" for i in range(60))
    (tmp_path / "visits.csv").write_text(f"note,ill\n{rows}")
    (tmp_path / "spec.toml").write_text(SPEC.format(name="visits", label="ill").replace('["0", "1"]', '["no", "yes"]'))
    assert ask(silo, capsys, "datasets", "add", str(tmp_path / "spec.toml"))[0] == 0
    code, text = complain(silo, capsys, "approve", "rehearsal", "--dataset", "visits")
    assert code == ExitCode.CONFIG
    assert 'Name its folder under [models."tiny"] in silo.toml, or list it in models_hub.allow' in text
    with (silo.folder / "silo.toml").open("a") as sink:
        sink.write(f'[models.tiny]\nfolder = "{tiny_folder(tmp_path / "model")}"\n')
    capsys.readouterr()
    code, text = complain(silo, capsys, "approve", "rehearsal", "--dataset", "visits")
    assert code == ExitCode.VERIFICATION
    assert "the plan pins aaaaaaaa" in text


def test_status_of_an_agent_that_was_killed(silo, capsys):
    StatusBoard(silo.folder, OWN, lambda: NOW).show(connected=True)
    with StateLock(silo.folder):
        assert run(app, ["status", "--state", str(silo.folder)]) == 0
        assert capsys.readouterr().out.startswith("east: connected,")
    assert run(app, ["status", "--state", str(silo.folder)]) == 0
    assert capsys.readouterr().out.startswith("east: not running,")
    assert ask(silo, capsys, "status")[1]["connected"] is False


def test_status_says_nothing_of_a_round_or_a_budget_that_is_not_known(silo, capsys):
    board = StatusBoard(silo.folder, OWN, lambda: NOW)
    board.show(connected=True)
    assert run(app, ["status", "--state", str(silo.folder)]) == 0
    text = capsys.readouterr().out
    assert "job      none yet" in text
    assert "round" not in text
    assert "epsilon" not in text
    board.show(job="ab" * 32, job_name="coughs", job_phase="RUNNING", round=2, rounds=3, phase="Reserved", step=1,
               steps=4, population="patients", epsilon_spent=1.0, epsilon_cap=8.0, epsilon_left=7.0)  # fmt: skip
    assert run(app, ["status", "--state", str(silo.folder)]) == 0
    text = capsys.readouterr().out
    assert "coughs abababababab RUNNING" in text
    assert "2 of 3 planned, Reserved (step 1 of 4)" in text
    assert "patients: epsilon 1.000 of 8 spent, 7.000 left" in text


def test_status_before_the_first_run_says_what_to_do(silo, capsys):
    assert run(app, ["status", "--state", str(silo.folder)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("east: not running\n")
    assert "no daemon has run here yet: cloister silo run" in text


def test_export_needs_an_applied_round(silo, capsys, tmp_path):
    code, text = complain(silo, capsys, "export", "rehearsal", "--out", str(tmp_path / "out"))
    assert (code, "has no applied round yet" in text) == (ExitCode.CONFIG, True)


def test_a_damaged_token_is_not_repeated(silo, capsys, tmp_path):
    assert run(app, ["enrol", "--token", "cloister-invite-v1.c2VjcmV0", "--state", str(tmp_path / "new")]) == 3
    said = capsys.readouterr().err
    assert "is damaged or incomplete" in said
    assert "c2VjcmV0" not in said


# -- the daemon ------------------------------------------------------------------------------------------------


def test_one_agent_at_a_time_per_state_folder(silo):
    with StateLock(silo.folder), pytest.raises(ConfigError, match="is in use by process"):
        run_until_signalled(silo.folder, lambda: NOW)


def test_a_folder_stays_locked_while_a_job_may_still_write(silo, monkeypatch, capsys):
    ends = [True, False]

    class Ending(Agent):
        def run(self):
            self.has_ended = ends.pop(0)

        @property
        def ended(self):
            return self.has_ended

    monkeypatch.setattr(daemon, "Agent", Ending)
    monkeypatch.setattr(daemon, "utc_now", lambda: NOW)
    assert run_until_signalled(silo.folder, lambda: NOW) == OWN
    assert not StateLock.held(silo.folder)
    assert run_until_signalled(silo.folder, lambda: NOW) == OWN
    assert StateLock.held(silo.folder)


def test_run_says_in_json_how_it_ended(silo, monkeypatch, capsys):
    monkeypatch.setattr(logs, "configure_logs", lambda _level: None)  # it is for the whole process
    with monkeypatch.context() as patched:
        patched.setattr(daemon, "run_until_signalled", lambda _: OWN)
        code, said = ask(silo, capsys, "run")
    assert (code, said) == (0, {"name": OWN, "state": str(silo.folder), "stopped": True})
    with StateLock(silo.folder):
        code, said = ask(silo, capsys, "run")
    assert (code, said["error"]["kind"]) == (ExitCode.CONFIG, "config")


@pytest.mark.parametrize(
    ("hours", "message"), [(-2, "is valid from .* on this machine's clock"), (24 * 31, "expired at .* machine's clock")]
)
def test_a_clock_or_certificate_that_is_wrong_is_named_before_dialling(silo, hours, message):
    with pytest.raises(ConfigError, match=message):
        run_until_signalled(silo.folder, lambda: NOW + timedelta(hours=hours))
    assert threading.active_count() == 1 or all(not t.name.startswith("job-") for t in threading.enumerate())


def test_the_documented_sample_configuration_is_valid(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "silo-config.md").read_text()
    sample = page.split("```toml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "silo.toml").write_text(sample)
    settings = load_config(SiloSettings, tmp_path / "silo.toml", "CLOISTER_SILO", {"CLOISTER_SILO__NAME": OWN})
    assert settings.name == OWN
    table = page.split("## The state folder")[0]
    documented = {line.split("|")[1].strip(" `") for line in table.splitlines() if line.startswith("| `")}
    tables = {"models", "models_hub", "policy", "activations", "training", "witnesses", "ledger"}
    keys = set(SiloSettings.model_fields) - tables
    keys |= {"models_hub.allow", "activations.disk_gib", "training.device", "training.frozen"}
    keys |= {"witnesses.quorum", "witnesses.every_s", "ledger.committed"}
    keys |= {f"policy.{name}" for name in type(settings.policy).model_fields} | {"models.SOURCE.folder"}
    assert documented == keys
