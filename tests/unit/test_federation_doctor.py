"""`cloister doctor`: what it looks at, and what it says to do."""

import json
import socket

import pytest

from federation.cli import Root
from federation.doctor import Finding, installation, silo
from runtime.console import run


def findings(state):
    return {finding.what: finding for finding in silo(state)}


def test_this_installation_is_well(capsys):
    assert all(finding.well for finding in installation())
    assert run(Root(), ["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["well"] is True
    assert {"python", "loopback", "disk", "extra [silo]"} <= {finding["what"] for finding in told["findings"]}


def test_a_folder_that_is_no_silos_is_named(tmp_path, capsys):
    (found,) = silo(tmp_path)
    assert not found.well
    assert "cloister silo enrol" in found.next_step
    assert run(Root(), ["doctor", "--silo", str(tmp_path)]) == 3
    assert "FAIL" in capsys.readouterr().out


def test_each_thing_wrong_with_a_silo_has_its_own_line(tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        (tmp_path / "silo.toml").write_text(f'name = "a"\nfederation = "f"\naggregator = "{address}"\n')
        (tmp_path / "vault").mkdir(mode=0o755)
        (tmp_path / "vault").chmod(0o755)
        found = findings(tmp_path)
    assert found[str(tmp_path / "silo.toml")].found == "silo a of f"
    assert "others may read it (mode 755)" in found["vault"].found
    assert found["vault"].next_step == f"chmod 700 {tmp_path / 'vault'}"
    assert str(tmp_path / "wallet") in found["certificates"].found
    assert "cloister silo enrol" in found["certificates"].next_step
    assert not found[f"aggregator {address}"].well


def test_a_gpu_that_is_asked_for_and_not_there_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    base = 'name = "a"\nfederation = "f"\naggregator = "127.0.0.1:1"\n'
    (tmp_path / "silo.toml").write_text(base)
    assert findings(tmp_path)["training"].found == "on cpu, cached frozen layers multiply in float32"
    (tmp_path / "silo.toml").write_text(f'{base}[training]\ndevice = "cuda"\n')
    found = findings(tmp_path)["training"]
    assert "no GPU" in found.found
    assert "CUDA build" in found.next_step
    (tmp_path / "silo.toml").write_text(f'{base}[training]\ndevice = "tpu"\n')
    assert not findings(tmp_path)["training"].well


def test_a_missing_extra_is_no_fault(monkeypatch):
    monkeypatch.setattr("federation.extras.requires", lambda _name: ['no-such-thing>=1; extra == "silo"'])
    found = {finding.what: finding for finding in installation()}
    assert found["extra [silo]"].found == "not installed here (no-such-thing missing)"
    assert found["extra [silo]"].well


def test_a_full_disk_is_a_fault(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10**8}))
    found = {finding.what: finding for finding in installation()}
    assert "0.1 GB" in found["disk"].found
    assert not found["disk"].well


@pytest.mark.parametrize(("next_step", "well"), [("", True), ("Do something.", False)])
def test_a_finding_is_well_when_nothing_needs_doing(next_step, well):
    assert Finding("what", "found", next_step).well is well
