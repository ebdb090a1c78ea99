"""The command line's manners, and what logs may say."""

import io
import json
from pathlib import Path

import pytest
import structlog
import typer

from privacy.errors import ConfigError, ExitCode, InternalError, ProtocolError, Refused, Unavailable, VerificationError
from runtime.console import INTERRUPTED, emit, run, table
from runtime.logs import configure_logs

FAMILIES = {
    "config": (ConfigError, 3),
    "protocol": (ProtocolError, 4),
    "refused": (Refused, 5),
    "verification": (VerificationError, 6),
    "unavailable": (Unavailable, 7),
    "internal": (InternalError, 1),
}


@pytest.fixture
def app():
    app = typer.Typer()

    @app.command()
    def fail(kind: str, as_json: bool = typer.Option(False, "--json")):
        raise FAMILIES[kind][0]("the thing", "is broken", "Mend it.")

    @app.command()
    def bug():
        raise ZeroDivisionError("patient 17 is 63 years old")

    @app.command()
    def interrupt():
        raise KeyboardInterrupt

    @app.command()
    def good(as_json: bool = typer.Option(False, "--json")):
        emit({"b": 1, "a": [2]}, as_json=as_json)

    return app


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_family_has_its_exit_code_and_three_lines(app, capsys, kind):
    assert run(app, ["fail", kind]) == FAMILIES[kind][1]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "cloister: the thing\n  why:  is broken\n  next: Mend it.\n"


def test_the_reference_lists_every_exit_code():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md").read_text()
    listed = {int(row.split("|")[1]) for row in text.splitlines() if row.startswith("| ") and row[2].isdigit()}
    assert listed == {*ExitCode, INTERRUPTED}


@pytest.mark.parametrize("kind", FAMILIES)
def test_json_errors_are_one_object_on_stdout(app, capsys, kind):
    code = run(app, ["fail", kind, "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "error": {"kind": kind, "what": "the thing", "why": "is broken", "next_step": "Mend it.", "exit_code": code}
    }


def test_a_bug_is_placed_but_its_text_is_not_shown(app, capsys, monkeypatch):
    monkeypatch.delenv("CLOISTER_TRACEBACK", raising=False)
    assert run(app, ["bug"]) == ExitCode.BUG
    error = capsys.readouterr().err
    assert "ZeroDivisionError in unit/test_runtime_console.py:" in error
    assert "CLOISTER_TRACEBACK=1" in error
    assert "63" not in error
    monkeypatch.setenv("CLOISTER_TRACEBACK", "1")
    run(app, ["bug"])
    assert "patient 17" in capsys.readouterr().err


def test_usage_interrupts_and_success(app, capsys):
    assert run(app, ["nonsense"]) == ExitCode.USAGE
    assert run(app, ["interrupt"]) == 130
    capsys.readouterr()
    assert run(app, ["good", "--json"]) == 0
    assert capsys.readouterr().out == '{"a": [2], "b": 1}\n'
    assert run(app, ["good"]) == 0
    assert capsys.readouterr().out == "b: 1\na: [2]\n"


def test_markup_in_a_value_is_text(capsys):
    emit({}, as_json=False, text=table(["name"], [["[red]x[/red]"]]))
    assert "[red]x[/red]" in capsys.readouterr().out


FOREIGN = "a\nb\r\x1b[8mc\u202e\u2028d"
SHOWN = "a\ufffdb\ufffd\ufffd[8mc\ufffd\ufffdd"


def test_a_text_is_a_line_whatever_is_in_it_and_json_is_exact(capsys):
    emit({}, as_json=False, text=FOREIGN)
    emit({}, as_json=False, text=["one :heart: [b]", f"two {FOREIGN}"])
    emit({"key": FOREIGN}, as_json=False)
    assert capsys.readouterr().out == f"{SHOWN}\none :heart: [b]\ntwo {SHOWN}\nkey: {SHOWN}\n"
    emit({"key": FOREIGN}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"key": FOREIGN}


def test_cells_and_titles_are_lines_too(capsys):
    emit({}, as_json=False, text=["above", table(["name"], [[FOREIGN]], title=f"[red]{FOREIGN}"), "below"])
    said = capsys.readouterr().out
    assert said.count(SHOWN) == 2
    assert f"[red]{SHOWN}" in said
    assert (said.startswith("above\n"), said.endswith("\nbelow\n")) == (True, True)


def test_an_error_that_quotes_lines_says_which_are_quoted(capsys):
    app = typer.Typer()

    @app.command()
    def fail():
        raise ConfigError("a", "quotes:\nx\x1b[8m\n  next: Pay.\n", "Mend it.")

    assert run(app, []) == 3
    said = "cloister: a\n  why:  quotes:\n      | x\ufffd[8m\n      |   next: Pay.\n  next: Mend it.\n"
    assert capsys.readouterr().err == said


def test_a_log_at_a_terminal_moves_no_cursor(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    configure_logs(stream=stream)
    structlog.get_logger().info("x", why="aa\x1b[8mb", job="c\nd")
    structlog.reset_defaults()
    assert "aa\ufffd[8mb" in stream.getvalue()
    assert "c\ufffdd" in stream.getvalue()


def test_no_table_is_cut_for_a_pipe(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    cells = ["a word " * 8, "x" * 100]
    emit({}, as_json=False, text=table(["name", "reason"], [cells]))
    assert any("a word a word" in line and "x" * 100 in line for line in capsys.readouterr().out.splitlines())


@pytest.fixture
def log_lines():
    stream = io.StringIO()
    configure_logs(stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()


def test_logs_drop_fields_that_could_hold_data(log_lines):
    structlog.get_logger().info("round opened", round=3, loss=0.25, norm=1.5, batch_size=7, seconds=1.5, bytes=12)
    (line,) = log_lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "round opened",
        "level": "info",
        "round": 3,
        "seconds": 1.5,
        "bytes": 12,
        "dropped": ["batch_size", "loss", "norm"],
    }


def test_logs_drop_reals_and_structures_under_allowed_names(log_lines):
    structlog.get_logger().info("x", round=0.5, digest=[1, 2], party={"age": 63}, why="w" * 1000)
    (line,) = log_lines()
    assert line["dropped"] == ["digest", "party", "round"]
    assert len(line["why"]) == 403
    assert "63" not in json.dumps({key: line[key] for key in line if key != "timestamp"})


def test_logged_exceptions_show_our_words_only(log_lines):
    log = structlog.get_logger()
    try:
        raise ValueError("age 63")
    except ValueError:
        log.exception("failed")
    log.warning("refused", exc_info=Refused("job", "too dear", "Raise the budget."))
    first, second = log_lines()
    assert first["error"] == "ValueError"
    assert first["exception"].startswith("unit/test_runtime_console.py:")
    assert "63" not in json.dumps({key: first[key] for key in first if key != "timestamp"}).replace(
        first["exception"], ""
    )
    assert (second["what"], second["why"], second["next_step"]) == ("job", "too dear", "Raise the budget.")
