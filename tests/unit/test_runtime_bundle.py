"""How entries stand in a bundle: one a line, each line read by itself, none further than an entry is long."""

from pathlib import Path

import pytest

from privacy.errors import VerificationError
from privacy.ledger.entry import MAX_ENTRY_BYTES
from runtime.bundle import opened_bundle
from runtime.bundle_form import ENTRIES
from tests.bundles import made_up, written
from tests.ledger_logs import sample_log

MEMBERS = made_up(sample_log())
SOUND = MEMBERS[ENTRIES]


def read(folder: Path, content: bytes) -> list[bytes]:
    with opened_bundle(written(folder / "bundle.zip", MEMBERS | {ENTRIES: content})) as bundle:
        return list(bundle.entries())


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\n\n", SOUND, b"a\r\nb\n", b"\x00\n\xff\n", b"x" * MAX_ENTRY_BYTES + b"\n" + SOUND]
)
def test_every_line_is_an_entry_whatever_is_in_it(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == content.split(b"\n")[:-1]


@pytest.mark.parametrize("size", [MAX_ENTRY_BYTES + 1, MAX_ENTRY_BYTES + 2, 10 * MAX_ENTRY_BYTES])
@pytest.mark.parametrize("after", [b"", b"\n", b"\n" + SOUND], ids=["at the end", "with an end", "in the middle"])
def test_a_line_that_is_longer_than_any_entry_is_not_read_to_its_end(tmp_path: Path, size: int, after: bytes) -> None:
    found = read(tmp_path, SOUND + b"x" * size + after)
    sound = SOUND.split(b"\n")[:-1]
    assert found[: len(sound)] == sound
    assert MAX_ENTRY_BYTES < len(found[len(sound)]) <= MAX_ENTRY_BYTES + 2, "so that the decoder refuses it"
    if size > MAX_ENTRY_BYTES + 1:
        assert len(found) == len(sound) + 1, "nothing after it is read"


@pytest.mark.parametrize("cut", [1, 2, 300])
def test_a_last_line_without_an_end_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(VerificationError, match=r"entries\.jsonl: its last line has no end"):
        read(tmp_path, SOUND[:-cut])


def test_two_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    with opened_bundle(written(tmp_path / "bundle.zip", MEMBERS)) as bundle:
        assert all(one == other for one, other in zip(bundle.entries(), bundle.entries(), strict=True))
