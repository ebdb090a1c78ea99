"""What submit refuses, and the configuration."""

from pathlib import Path

import pytest

from aggregator.checks import check_artifact, check_plan
from aggregator.config import CONFIG_FILE, AggregatorConfig, StateFolder
from aggregator.store import MemberRow
from certs.identity import Identity
from certs.names import PartyId, Role
from privacy.errors import ConfigError, Refused
from privacy.plan import JobPlan
from tests.parties import Cohort

SAMPLE = Path("docs/reference/aggregator.toml")
COHORT = Cohort("a", "b", "c")
IDENTITY = Identity(PartyId("test", Role.AGGREGATOR, "aggregator"), b"", COHORT.keys["aggregator"])


def members(*names: str, cohort: Cohort = COHORT) -> list[MemberRow]:
    return [MemberRow(Role.SILO, name, cohort.keys[name].public_key().public_bytes_raw(), b"pem") for name in names]


def test_a_plan_of_enrolled_silos_is_taken() -> None:
    check_plan(COHORT.plan, IDENTITY, members("a", "b", "c"))


@pytest.mark.parametrize(
    ("change", "enrolled", "why"),
    [
        ({"federation": "other"}, members("a", "b", "c"), "is for the federation 'other', and this is 'test'"),
        (
            {"aggregator": {"name": "aggregator", "identity_key": "7" * 64}},
            members("a", "b", "c"),
            "names the aggregator 'aggregator' with another identity key",
        ),
        ({}, members("a", "b"), "lists c, which is not enrolled here"),
        ({}, [*members("a", "b"), MemberRow(Role.AUDITOR, "c", b"", b"")], "lists c, which is not enrolled here"),
        ({}, [*members("a", "b"), *members("c", cohort=Cohort("b", "c"))], "another identity key for c"),
    ],
)
def test_plans_that_are_refused(change: dict[str, object], enrolled: list[MemberRow], why: str) -> None:
    plan = JobPlan.model_validate(COHORT.plan.model_dump(mode="json") | change)
    with pytest.raises(Refused, match=why):
        check_plan(plan, IDENTITY, enrolled)


def test_the_artifact_is_the_pinned_one() -> None:
    check_artifact(COHORT.plan, "0" * 64, 0)
    with pytest.raises(Refused, match="is a rehearsal and takes no adapter"):
        check_artifact(COHORT.plan, "0" * 64, 1)


def test_the_sample_configuration_loads(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(SAMPLE.read_text())
    config = StateFolder(tmp_path).load()
    assert set(AggregatorConfig.model_fields) == config.model_fields_set  # the sample shows every setting


def test_the_reference_names_every_setting() -> None:
    page = SAMPLE.with_name("aggregator-config.md").read_text()
    assert [name for name in AggregatorConfig.model_fields if f"`{name}`" not in page] == []


def test_an_unknown_key_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('federation = "test"\nlissten = "127.0.0.1:1"\n')
    with pytest.raises(ConfigError, match=r"unknown key 'lissten'\. Did you mean 'listen'"):
        StateFolder(tmp_path).load()


def test_a_variable_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / CONFIG_FILE).write_text('federation = "test"\n')
    monkeypatch.setenv("CLOISTER_AGGREGATOR__KEEP_FINISHED_S", "60")
    assert StateFolder(tmp_path).load().keep_finished_s == 60
