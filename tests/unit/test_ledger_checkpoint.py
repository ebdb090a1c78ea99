"""Checkpoints: C2SP's own example, and every way a note can be wrong."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.errors import InternalError, VerificationError
from privacy.ledger.checkpoint import (
    Checkpoint,
    join_notes,
    key_id,
    log_origin,
    open_checkpoint,
    sign_checkpoint,
    split_notes,
)

ORIGIN = log_origin("heart", "hospital-a")
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
CHECKPOINT = Checkpoint(ORIGIN, 12, b"\x01" * 32)
NOTE = sign_checkpoint(CHECKPOINT, PUBLIC, KEY.sign)


def test_the_example_of_the_signed_note_specification() -> None:
    vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    line = "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
    name, short, key = vkey.split("+", 2)
    algorithm_and_key, blob = base64.b64decode(key), base64.b64decode(line)
    assert algorithm_and_key[0] == 1
    assert key_id(name, algorithm_and_key[1:]).hex() == short == blob[:4].hex()
    Ed25519PublicKey.from_public_bytes(algorithm_and_key[1:]).verify(blob[4:], b"This is an example message.\n")


def test_a_note_reads_as_the_specification_says() -> None:
    lines = NOTE.split("\n")
    assert lines[:4] == ["cloister/heart/hospital-a", "12", base64.b64encode(b"\x01" * 32).decode(), ""]
    assert lines[4].startswith("— cloister/heart/hospital-a ")
    assert lines[5:] == [""]


def test_what_was_signed_opens() -> None:
    assert open_checkpoint(NOTE, ORIGIN, PUBLIC) == CHECKPOINT


def test_signatures_of_witnesses_do_not_disturb() -> None:
    witnessed = NOTE + f"— witness.example {base64.b64encode(b'w' * 76).decode()}\n"
    assert open_checkpoint(witnessed, ORIGIN, PUBLIC) == CHECKPOINT


@pytest.mark.parametrize(
    ("note", "complaint"),
    [
        (NOTE.replace("\n12\n", "\n13\n"), "checkpoint of 13 entries: its signature is wrong"),
        (NOTE.replace("AQEB", "AQEC", 1), "its signature is wrong"),
        (NOTE.replace("hospital-a", "hospital-b"), "is of 'cloister/heart/hospital-b'"),
        (NOTE.replace("\n12\n", "\n012\n"), "not a signed note"),
        (NOTE.replace("\n12\n", "\n-1\n"), "not a signed note"),
        (NOTE.replace("\n12\n", "\n12\nextension\n"), "not a signed note"),
        (NOTE.removesuffix("\n"), "not a signed note"),
        (NOTE.replace("—", "-"), "not a signed note"),
        (NOTE.replace("\n\n", "\n"), "not a signed note"),
        (NOTE.split("\n\n", maxsplit=1)[0] + "\n\n", "not a signed note"),
        ("", "not a signed note"),
        (
            NOTE + "— witness.example AAAAAAA=\n— witness.example AAAAAAB=\n",
            "not a signed note",
        ),  # the last is no encoding
        (NOTE + "x" * 20_000, "not a signed note"),
        (NOTE + NOTE.split("\n\n")[1], "the log's key did not sign it"),
    ],
)
def test_an_altered_note_is_refused_for_its_reason(note: str, complaint: str) -> None:
    with pytest.raises(VerificationError, match=complaint):
        open_checkpoint(note, ORIGIN, PUBLIC)


def test_another_key_is_refused_even_under_our_name() -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    forged = sign_checkpoint(CHECKPOINT, other.public_key().public_bytes_raw(), other.sign)
    with pytest.raises(VerificationError, match="the log's key did not sign it"):
        open_checkpoint(forged, ORIGIN, PUBLIC)


def test_a_key_that_is_not_the_logs_signs_nothing() -> None:
    with pytest.raises(InternalError, match="the log's key did not sign it"):
        sign_checkpoint(CHECKPOINT, Ed25519PrivateKey.generate().public_key().public_bytes_raw(), KEY.sign)


def test_a_file_of_notes_is_read_as_it_was_written() -> None:
    second = sign_checkpoint(Checkpoint(ORIGIN, 14, b"\x02" * 32), PUBLIC, KEY.sign)
    assert split_notes(join_notes((NOTE, second))) == (NOTE, second)
    assert split_notes(join_notes((NOTE,))) == (NOTE,)
    assert split_notes("") == ()
    for damaged in (NOTE.split("\n\n", maxsplit=1)[0], NOTE + "\n", join_notes((NOTE, second)).removesuffix("\n"), "x"):
        with pytest.raises(VerificationError, match="not a list of signed notes"):
            split_notes(damaged)


def test_an_origin_is_made_of_names() -> None:
    with pytest.raises(InternalError, match="must be names"):
        log_origin("heart", "a/b")
