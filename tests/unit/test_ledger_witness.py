"""Cosignatures as C2SP specifies them, and what witnesses and owners conclude from them."""

import base64
import hashlib
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.errors import ConfigError, VerificationError
from privacy.ledger.checkpoint import Checkpoint, key_id, open_checkpoint, parse_note, sign_checkpoint, signature_line
from privacy.ledger.cosignature import cosign, cosignatures, cosigner_id, with_lines
from privacy.ledger.merkle import EMPTY_ROOT, root
from privacy.ledger.witness import Proof, RewrittenError, check_continues, check_own
from tests.ledger_logs import sample_log
from tests.merkle_oracle import slow_consistency as consistency_proof

OWNER, WITNESS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
ORIGIN, NAME = "cloister/heart/hospital-a", "cloister/heart/silo/hospital-b"
KEY = WITNESS.public_key().public_bytes_raw()
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
LEAVES = sample_log().leaves


def note(size: int, leaves: list[bytes] = LEAVES) -> str:
    said = Checkpoint(ORIGIN, size, root(leaves[:size]))
    return sign_checkpoint(said, OWNER.public_key().public_bytes_raw(), OWNER.sign)


def at(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint:
    return parse_note(note(size, leaves)).checkpoint


def line(of: str, now: datetime = NOW) -> str:
    return cosign(of, NAME, KEY, WITNESS.sign, now)


def test_the_published_example_of_a_signed_note_verifies() -> None:
    """golang.org/x/mod/sumdb/note, the documentation's own key, text and signature (type 0x01, as checkpoints have)."""
    name, hashed, encoded = ["PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
    raw = base64.b64decode(encoded)
    assert raw[0] == 1
    assert key_id(name, raw[1:]).hex() == hashed
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    blob = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    assert blob[:4] == key_id(name, raw[1:])
    Ed25519PublicKey.from_public_bytes(raw[1:]).verify(blob[4:], text.encode())


def test_the_published_example_of_a_cosigned_checkpoint_is_read() -> None:
    """C2SP tlog-cosignature, its introduction: origin, size, root, the log's line, a witness' line and time."""
    example = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa "
        "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 "
        "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    parsed = parse_note(example)
    assert parsed.checkpoint.size == 20852163
    (_, log), (witness, blob) = parsed.signatures
    assert (len(log), witness, len(blob)) == (4 + 64, "witness.example.com/w1", 4 + 8 + 64)
    assert int.from_bytes(blob[4:12], "big") == 1679315147, "the time that the specification's text says"


def test_a_cosignature_is_one_over_the_specified_bytes() -> None:
    checkpoint = note(5)
    _, _, encoded = line(checkpoint).split(" ")
    blob = base64.b64decode(encoded)
    assert blob[:4] == hashlib.sha256(NAME.encode() + b"\n\x04" + KEY).digest()[:4] == cosigner_id(NAME, KEY)
    seconds = int(NOW.timestamp())
    assert blob[4:12] == seconds.to_bytes(8, "big")
    text = checkpoint.split("\n\n")[0] + "\n"
    WITNESS.public_key().verify(blob[12:], f"cosignature/v1\ntime {seconds}\n{text}".encode())


def test_cosignatures_stand_beside_the_logs_own_signature() -> None:
    cosigned = with_lines(note(5), [line(note(5))])
    assert open_checkpoint(cosigned, ORIGIN, OWNER.public_key().public_bytes_raw()) == at(5)
    (found,) = cosignatures(cosigned, {NAME: KEY})
    assert (found.witness, found.utc) == (NAME, NOW)
    assert cosignatures(cosigned, {"cloister/heart/silo/other": KEY}) == ()
    assert cosignatures(cosigned, {NAME: OWNER.public_key().public_bytes_raw()}) == (), "another key of that name"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([line(note(5)), line(note(5))], "twice"),
        ([line(note(6))], "is not by the key that it names"),
        ([line(note(5)).replace(line(note(5))[-12:-4], "AAAAAAAA")], "is not by the key that it names"),
    ],
)
def test_a_cosignature_that_does_not_hold_is_refused(lines: list[str], complaint: str) -> None:
    with pytest.raises(VerificationError, match=complaint):
        cosignatures(with_lines(note(5), lines), {NAME: KEY})


def signed_at(of: str, seconds: int) -> str:
    """The line of a witness whose clock shows whatever it likes."""
    text = parse_note(of).text
    signature = WITNESS.sign(f"cosignature/v1\ntime {seconds}\n{text}".encode())
    return signature_line(NAME, cosigner_id(NAME, KEY) + seconds.to_bytes(8, "big") + signature)


@pytest.mark.parametrize("seconds", [0, 946_684_799, 253_370_764_800, 1 << 39, (1 << 64) - 1])
def test_a_cosignature_of_a_time_that_no_clock_shows_is_refused(seconds: int) -> None:
    """The witness signed it; before 2000 and after 9998 there are no times (privacy.ledger.clock)."""
    with pytest.raises(VerificationError, match="is not a time and a signature"):
        cosignatures(with_lines(note(5), [signed_at(note(5), seconds)]), {NAME: KEY})


def test_the_first_and_the_last_second_are_times() -> None:
    for seconds in (946_684_800, 253_370_764_799):
        (found,) = cosignatures(with_lines(note(5), [signed_at(note(5), seconds)]), {NAME: KEY})
        assert found.utc.timestamp() == seconds


def test_a_witness_whose_clock_is_centuries_off_signs_nothing() -> None:
    with pytest.raises(ConfigError, match="Set the clock"):
        line(note(5), datetime(1970, 1, 1, tzinfo=UTC))


def test_a_witness_cosigns_what_continues_and_nothing_else() -> None:
    proof = Proof(5, tuple(consistency_proof(LEAVES[:9], 5)))
    assert check_continues(None, at(5), ())
    assert check_continues(at(5), at(5), ())
    assert check_continues(at(5), at(9), (proof,))
    assert not check_continues(at(5), at(9), ()), "no proof, no word"
    assert not check_continues(at(9), at(5), ()), "an older state"
    other = [*LEAVES[:4], bytes(32), *LEAVES[5:]]
    with pytest.raises(RewrittenError, match="two states of 5 entries are signed"):
        check_continues(at(5), at(5, other), ())
    with pytest.raises(RewrittenError, match="do not begin with the 5 that it signed before"):
        check_continues(at(5), at(9, other), (Proof(5, tuple(consistency_proof(other[:9], 5))),))


def test_an_owner_knows_a_state_that_is_not_its_newest() -> None:
    def root_at(size: int) -> bytes:
        return root(LEAVES[:size])

    check_own(None, 0, root_at)
    check_own(at(5), 9, root_at)
    check_own(at(9), 9, root_at)
    check_own(Checkpoint(ORIGIN, 0, EMPTY_ROOT), 9, root_at)
    with pytest.raises(RewrittenError, match="rolled back") as found:
        check_own(at(9), 5, root_at)
    assert "enrol under a new name" in found.value.next_step
    with pytest.raises(RewrittenError, match="forked or cloned"):
        check_own(at(5, [bytes(32)] * 5), 9, root_at)
