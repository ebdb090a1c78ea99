"""The documentation's state diagrams."""

from pathlib import Path

import pytest

from federation.diagrams import main, mermaid, pages
from privacy.errors import ConfigError

TABLE = {("A", "Went"): ("B", "C"), ("A", "Jumped"): ("B",), ("B", "Waited"): ("B",), ("C", "Fell"): ("B",)}


def test_a_diagram_joins_arrows_and_marks_ends():
    assert mermaid(TABLE, "A").splitlines() == [
        "stateDiagram-v2",
        "    [*] --> A",
        "    A --> B: Went, Jumped",
        "    A --> C: Went",
        "    B --> B: Waited",
        "    C --> B: Fell",
        "    B --> [*]",
    ]


def test_the_pages_in_the_repository_are_the_tables():
    main(["--check", str(Path(__file__).parents[2] / "docs" / "reference")])


def test_a_page_that_differs_is_named(tmp_path):
    main([str(tmp_path)])
    main(["--check", str(tmp_path)])
    page = tmp_path / "silo-states.md"
    page.write_text(page.read_text().replace("Consented", "Agreed"))
    with pytest.raises(ConfigError, match=r"silo-states.md: is not what the transition tables give"):
        main(["--check", str(tmp_path)])


def test_every_silo_state_is_drawn():
    from silo_agent import round as silo_round

    drawn = pages()["silo-states.md"]
    for state in silo_round.State.__args__:
        assert state.__name__ in drawn


def test_the_command_line_page_has_every_command():
    page = pages()["cli.md"]
    for line in (
        "cloister demo [--folder FOLDER]",
        "cloister aggregator submit FOLDER\\|JOB.toml",
        "cloister silo peers trust NAME FINGERPRINT",
        "cloister ledger verify BUNDLE",
        "cloister bench aggregation [--values VALUES]",
    ):
        assert line in page
