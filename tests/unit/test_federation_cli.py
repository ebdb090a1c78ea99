"""The root command: quick, light, and clear about what is missing."""

import subprocess
import sys
import textwrap
import types
from importlib.metadata import PackageNotFoundError

import pytest

from federation.cli import GROUPS, Root, asked_group
from federation.extras import extra_with
from runtime.console import run

HEAVY = ("torch", "tenseal", "opacus", "transformers", "peft", "grpc", "sqlalchemy", "numpy", "matplotlib", "sklearn")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy():
    done = python(f"""
        import sys
        from federation.cli import Root
        from runtime.console import run
        code = run(Root(), ["--help"])
        print("heavy:", [name for name in {HEAVY!r} if name in sys.modules], code)
    """)
    assert "heavy: [] 0" in done.stdout, done.stdout + done.stderr
    for group in GROUPS:
        assert group in done.stdout


def test_importing_the_ledger_pulls_in_neither_torch_nor_tenseal_nor_grpc():
    done = python("""
        import sys
        import privacy.ledger, privacy.ledger.merkle, federation.ledger_cli
        print([name for name in ("torch", "tenseal", "opacus", "transformers", "grpc") if name in sys.modules])
    """)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_missing_extra_is_named_with_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)  # as if it were not installed
    monkeypatch.setitem(GROUPS, "ledger", ("federation_test_needs_sqlalchemy", ""))
    module = types.ModuleType("federation_test_needs_sqlalchemy")
    monkeypatch.setattr("importlib.import_module", lambda _name: exec("import sqlalchemy", vars(module)))
    assert run(Root(), ["ledger", "verify"]) == 3
    said = capsys.readouterr().err
    assert "cloister ledger" in said
    assert "needs sqlalchemy, which is not installed" in said
    assert ".[auditor]" in said


def test_planning_a_job_needs_what_a_silo_has_and_no_demo(monkeypatch, capsys):
    monkeypatch.setitem(GROUPS, "job", ("federation_test_needs_torch", ""))
    monkeypatch.setattr("importlib.import_module", lambda _name: exec("import no_such_torch"))
    assert run(Root(), ["job", "plan"]) == 3
    assert ".[silo]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("google.protobuf", "aggregator"), ("grpc", "aggregator"), ("tenseal", "silo"), ("jinja2", "auditor"),
        ("sqlalchemy.orm", "auditor"), ("no_such", "auditor"),
    ],
)  # fmt: skip
def test_the_extra_is_named_that_brings_what_is_missing(monkeypatch, capsys, module, extra):
    """Exporting an aggregator's state, for one, where an auditor's extra is installed."""

    def load(*_words):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("federation.cli._load", load)
    assert run(Root(), ["ledger", "export"]) == 3
    assert f"pip install -c constraints.txt '.[{extra}]'." in capsys.readouterr().err


def test_where_nothing_is_installed_the_commands_own_extra_is_named(monkeypatch):
    def requires(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("federation.extras.requires", requires)
    assert extra_with("google", "auditor") == "auditor"


def test_what_a_command_itself_lacks_is_named_too(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "federation.demo", None)
    assert run(Root(), ["demo"]) == 1  # a module of our own: a bug, not a missing extra
    monkeypatch.delitem(sys.modules, "federation.demo")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.delitem(sys.modules, "federation.processes", raising=False)
    monkeypatch.delitem(sys.modules, "federation.local", raising=False)
    capsys.readouterr()
    assert run(Root(), ["demo"]) == 3
    assert "cloister demo\n  why:  needs psutil, which is not installed" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys):
    assert run(Root(), ["federate"]) == 2
    assert "No such command 'federate'" in capsys.readouterr().err


def test_version(capsys):
    assert run(Root(), ["--version"]) == 0
    assert capsys.readouterr().out.startswith("cloister ")


@pytest.mark.parametrize(
    ("line", "group"),
    [(["silo", "run"], "silo"), (["--version"], ""), ([], ""), (["ledger", "verify", "silo"], "ledger")],
)
def test_the_group_is_the_first_word(line, group):
    assert asked_group(line) == group


def test_completion_mounts_every_group(monkeypatch):
    monkeypatch.setenv("_CLOISTER_COMPLETE", "complete_bash")
    assert asked_group(["silo"]) is None
