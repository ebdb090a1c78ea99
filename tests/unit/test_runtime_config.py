"""Configuration: strict, overridable, and errors that name the key and the nearest valid one."""

from enum import StrEnum
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from privacy.errors import ConfigError
from runtime.config import Address, load_config, validated


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Colour(StrEnum):
    RED = "red"


class Link(Section):
    address: Address
    retries: int = Field(default=3, ge=0)
    colour: Colour = Colour.RED


class Dataset(Section):
    path: Path
    columns: tuple[str, ...] = ()


class Settings(Section):
    name: str
    state: Path
    timeout_s: float = 1.0
    verbose: bool = False
    link: Link
    datasets: dict[str, Dataset] = {}
    peers: tuple[Link, ...] = ()


GOOD = """
name = "hospital-a"
state = "/srv/cloister"
timeout_s = 5
[link]
address = "hub:8443"
[datasets.heart]
path = "heart.csv"
columns = ["age", "sex"]
[[peers]]
address = "b:1"
"""


@pytest.fixture
def load(tmp_path):
    def load(text=GOOD, **environ):
        (tmp_path / "silo.toml").write_text(text)
        return load_config(Settings, tmp_path / "silo.toml", "CLOISTER_SILO", environ)

    return load


def test_types_are_strict_but_toml_text_becomes_paths_and_members(load):
    settings = load()
    assert settings.state == Path("/srv/cloister")
    assert settings.timeout_s == 5.0
    assert settings.link.colour is Colour.RED
    assert settings.datasets["heart"].columns == ("age", "sex")
    with pytest.raises(ConfigError, match=r"link.retries: Input should be a valid integer"):
        load(GOOD.replace('address = "hub:8443"', 'address = "hub:8443"\nretries = "3"'))
    with pytest.raises(ConfigError, match=r"silo.toml: link.retries: Input should be greater than or equal to 0"):
        load(GOOD.replace('address = "hub:8443"', 'address = "hub:8443"\nretries = -1'))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("timeout_s", "timeout", r"silo.toml: unknown key 'timeout'. Did you mean 'timeout_s'\?"),
        ('address = "hub', 'adress = "hub', r"unknown key 'link.adress'. Did you mean 'address'\?"),
        ("columns", "collumns", r"unknown key 'datasets.heart.collumns'. Did you mean 'columns'\?"),
        ('address = "b:1"', 'address = "b:1"\nzzzzz = 1', r"unknown key 'peers.0.zzzzz'. Valid here: address, colour"),
        ("[link]", "[lnik]", r"unknown key 'lnik'. Did you mean 'link'\?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(load, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load(GOOD.replace(old, new))


@pytest.mark.parametrize("address", ["hub", "https://hub:8443", "hub:port", "hub:8443/x", ""])
def test_an_address_that_is_none_is_answered_in_words(load, address):
    with pytest.raises(ConfigError) as caught:
        load(GOOD.replace("hub:8443", address))
    assert caught.value.why == "link.address: is not host:port, such as aggregator.example.org:7443"


def test_the_environment_overrides(load):
    settings = load(
        CLOISTER_SILO__LINK__ADDRESS="other:1",
        CLOISTER_SILO__NAME="123",
        CLOISTER_SILO__VERBOSE="true",
        CLOISTER_SILO__TIMEOUT_S="7",
        CLOISTER_SILO__DATASETS__HEART__COLUMNS='["bmi"]',
        CLOISTER_AGGREGATOR__NAME="not ours",
    )
    assert (settings.link.address, settings.name, settings.verbose, settings.timeout_s) == ("other:1", "123", True, 7.0)
    assert settings.datasets["heart"].columns == ("bmi",)
    with pytest.raises(ConfigError, match=r"variable CLOISTER_SILO__LINK__ADRESS: unknown key 'link.adress'"):
        load(CLOISTER_SILO__LINK__ADRESS="other:1")
    with pytest.raises(ConfigError, match=r"CLOISTER_SILO__TIMEOUT_S: timeout_s: Input should be a valid number"):
        load(CLOISTER_SILO__TIMEOUT_S="soon")
    with pytest.raises(ConfigError, match=r"CLOISTER_SILO__NAME__X: 'name' is not a section"):
        load(CLOISTER_SILO__NAME__X="1")


def test_values_are_never_repeated(load):
    with pytest.raises(ConfigError) as caught:
        load(GOOD.replace("timeout_s = 5", 'timeout_s = "hunter2"'))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load(GOOD.replace('"hub:8443"', '"hub:8443"\nretries = -4711'))
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-4711, "retries is -4711: Input should be greater than or equal to 0"),
        (-(10**400), "retries is -1000000000000000000000000000000000000000?[^0]"),
        ("hunter2", "retries: Input should be a valid integer"),
        (True, "retries: Input should be a valid integer"),
    ],
)
def test_a_job_file_s_numbers_are_repeated(value, said):
    with pytest.raises(ConfigError, match=f"job file: {said}"):
        validated(Link, {"address": "hub:8443", "retries": value}, "job file")


def test_missing_and_broken_files_are_named(load, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml: No such file or directory. Correct the path"):
        load_config(Settings, tmp_path / "nowhere.toml", "CLOISTER_SILO", {})
    with pytest.raises(ConfigError, match=r"is not TOML: .*line 2"):
        load("name = 'a'\nstate = \n")
