"""A log whose key changes: nobody but who has both keys can say that it does, and each checkpoint has its own key.

Adversary: somebody with a key that the log no longer has, or with a new one only; whoever carries the bundle; and the
institution, which would have two states of one log pass for one.
Flaw class: signed logs whose key can be exchanged by whoever runs them.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from certs.ca import CertificateAuthority
from certs.names import PartyId, Role
from certs.profile import signing_request
from federation.ledger_cli import app
from privacy.canonical import canonical_json
from privacy.ledger.checkpoint import join_notes
from privacy.ledger.verify import LedgerFault, verify_log
from runtime.bundle_form import CHECKPOINTS, ENTRIES, HEAD, LEAVES, OPENINGS, Head
from runtime.console import run
from tests.bundles import Members, recounted, written
from tests.ledger_logs import ORIGIN, Log, key_entry, policy_entry, rotated_log, rotation_entry

SOUND = rotated_log()
(OLD,), NEW, THIEF = SOUND.earlier, SOUND.key, Ed25519PrivateKey.generate()
PLACE = SOUND.verify().rotations[0].sequence  # of the change
PARTY = PartyId("heart", Role.SILO, "hospital-a")
CHANGED = datetime(2026, 3, 1, 9, tzinfo=UTC)  # as `rotation_entry` says


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def fault(log: Log) -> LedgerFault:
    with pytest.raises(LedgerFault) as found:
        log.verify(log.leaves)
    return found.value


def begun() -> Log:
    log = Log(OLD)
    log.add(key_entry(), policy_entry())
    log.sign()
    return log


def changed_by(**changes: str) -> Log:
    """A log whose change of key says something else than it should."""
    log = begun()
    log.add(rotation_entry(OLD, NEW, 2).model_copy(update=changes))
    log.earlier, log.key = [OLD], NEW
    log.sign()
    return log


def test_a_log_goes_on_under_another_key_and_again_under_a_third() -> None:
    log = rotated_log()
    log.rotate()
    report = log.verify(log.leaves)
    assert [(each.old_key, each.new_key) for each in report.rotations] == [
        (raw(log.earlier[0]).hex(), raw(log.earlier[1]).hex()),
        (raw(log.earlier[1]).hex(), raw(log.key).hex()),
    ]


@pytest.mark.parametrize(("which", "signed_by"), [("old", NEW), ("new", OLD), ("old", THIEF), ("new", THIEF)])
def test_a_change_that_one_of_the_keys_did_not_sign(which: str, signed_by: Ed25519PrivateKey) -> None:
    forged = rotation_entry(signed_by if which == "old" else OLD, signed_by if which == "new" else NEW, 2)
    found = fault(changed_by(**{f"{which}_signature": getattr(forged, f"{which}_signature")}))
    assert (found.sequence, f"the {which} key" in found.why, "did not sign it" in found.why) == (2, True, True)


@pytest.mark.parametrize(
    "other", [rotation_entry(OLD, NEW, 1), rotation_entry(OLD, NEW, 2, log="cloister/heart/hospital-b")]
)
def test_a_change_that_was_signed_for_another_place_or_log(other: object) -> None:
    signatures = {name: getattr(other, name) for name in ("old_signature", "new_signature")}
    assert "the old key" in fault(changed_by(**signatures)).why
    assert "the old key" in fault(changed_by(reason="another one")).why
    assert changed_by().verify().rotations


@pytest.mark.parametrize("size", range(PLACE + 1, len(SOUND.entries) + 1))
def test_who_has_the_old_key_signs_for_nothing_after_the_change(size: int) -> None:
    log = Log(OLD, SOUND.entries[:size])
    log.sign()
    log.notes = [*(note for note in SOUND.notes if int(note.split("\n")[1]) < size), *log.notes]
    log.earlier, log.key = [OLD], NEW
    said = str(fault(log))
    if len(log.notes) > 1 and size == len(SOUND.entries):  # the new key signed before it
        assert "the log's key did not sign it" in said
    else:
        assert f"checkpoint of {size} entries: its checkpoint is signed by a key that is not the log's" in said


def test_the_new_key_signs_for_nothing_before_the_change() -> None:
    early = Log(NEW, SOUND.entries[:PLACE])
    early.sign()
    others = [note for note in SOUND.notes if int(note.split("\n")[1]) != PLACE]
    notes = sorted([*others, *early.notes], key=lambda note: int(note.split("\n")[1]))
    found = fault(Log(NEW, SOUND.entries, notes, [OLD]))
    assert f"checkpoint of {PLACE} entries: its checkpoint is signed by a key that is not the log's" in str(found)


def test_a_key_that_no_entry_changes_to_and_a_change_to_another_key() -> None:
    unsaid = begun()
    unsaid.add(policy_entry(population="neurology"))
    unsaid.earlier, unsaid.key = [OLD], NEW
    unsaid.sign()
    assert "checkpoint of 3 entries" in str(fault(unsaid))
    for keys in ([OLD, THIEF, NEW], [THIEF, NEW], [OLD, NEW, THIEF], [NEW, OLD]):
        *earlier, newest = keys
        with pytest.raises(LedgerFault):
            verify_log(SOUND.entries, SOUND.notes, ORIGIN, raw(newest), earlier_keys=[raw(key) for key in earlier])
    with pytest.raises(LedgerFault):
        verify_log(SOUND.entries, SOUND.notes, ORIGIN, raw(NEW))


def bundle(log: Log, **more: bytes) -> Members:
    keys = tuple(raw(key).hex() for key in (*log.earlier, log.key))
    head = Head(log=ORIGIN, keys=keys, entries=len(log.entries), members=5, job=None, since=None, redacted=())
    return recounted(
        {
            HEAD: canonical_json(head.model_dump(mode="json")),
            ENTRIES: b"".join(entry + b"\n" for entry in log.entries),
            LEAVES: "".join(f"{leaf.hex()}\n" for leaf in log.leaves).encode(),
            CHECKPOINTS: join_notes(tuple(log.notes)).encode(),
            OPENINGS: b"",
            **more,
        }
    )


Verify = Callable[..., tuple[int, str]]


@pytest.fixture
def verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    """The exit code of `cloister ledger verify`, and what it says."""

    def typed(members: Members, *words: str) -> tuple[int, str]:
        path = written(tmp_path / "bundle.zip", members)
        code = run(app, ["verify", str(path), *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return typed


def test_each_key_of_the_log_leads_to_the_others_and_no_other_key_does(verify: Verify) -> None:
    log = changed_by()
    for key in (OLD, NEW):
        code, said = verify(bundle(log), "--key", raw(key).hex())
        assert code == 0
        assert f"signed by  {raw(NEW).hex()}\n     before entry 2 by {raw(OLD).hex()}" in said
    code, said = verify(bundle(log), "--key", raw(THIEF).hex())
    assert (code, "a log that never had the key" in said) == (6, True)


def test_a_bundle_that_names_other_keys_is_refused(verify: Verify) -> None:
    members, (old, new, thief) = bundle(changed_by()), (raw(key).hex().encode() for key in (OLD, NEW, THIEF))
    for before, after in ((old, thief), (b'"' + old + b'",', b""), (b'["' + old, b'["' + thief + b'","' + old)):
        forged = members | {HEAD: members[HEAD].replace(before, after, 1)}
        assert forged != members
        assert verify(forged, "--key", new.decode())[0] == 6


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", "heart", CHANGED - timedelta(days=900))


def certificate(
    ca: CertificateAuthority, key: Ed25519PrivateKey, issued: datetime = CHANGED, party: PartyId = PARTY
) -> bytes:
    return ca.sign_identity(signing_request(key, party).public_bytes(Encoding.PEM), party, issued)


def with_certificates(old: bytes | None, new: bytes | None) -> Log:
    log = begun()
    pems = [None if pem is None else pem.decode() for pem in (old, new)]
    log.add(rotation_entry(OLD, NEW, 2, old_certificate=pems[0], new_certificate=pems[1]))
    log.earlier, log.key = [OLD], NEW
    log.sign()
    return log


def test_the_ca_vouches_for_both_keys(verify: Verify, ca: CertificateAuthority, tmp_path: Path) -> None:
    place = tmp_path / "ca.pem"
    place.write_bytes(ca.ca_pem)
    old, new = certificate(ca, OLD), certificate(ca, NEW)
    trusted, identity = ["--ca", str(place)], {"identity.pem": new}
    assert verify(bundle(with_certificates(old, new), **identity), *trusted)[0] == 0
    stranger = CertificateAuthority.create(tmp_path / "stranger", "heart", CHANGED)
    other = PartyId("heart", Role.SILO, "hospital-b")
    wrong = {
        "old_certificate: the certificate was not issued by": (certificate(stranger, OLD), new),
        "old_certificate: is not that of": (certificate(ca, OLD, party=other), new),
        "new_certificate: is not that of": (old, certificate(ca, THIEF)),
        "old_certificate: is good from": (certificate(ca, OLD, CHANGED - timedelta(days=731)), new),
        "new_certificate: is good from": (old, certificate(ca, NEW, CHANGED + timedelta(days=1))),
        "old_certificate: ": (None, new),
        "new_certificate: ": (old, None),
    }
    for complaint, pems in wrong.items():
        code, said = verify(bundle(with_certificates(*pems), **identity), *trusted)
        assert (code, "entry 2" in said, complaint in said) == (6, True, True), (complaint, said)
    code, said = verify(bundle(with_certificates(old, new), **{"identity.pem": old}), *trusted)
    assert (code, "for another key than the bundle says that the log has now" in said) == (6, True)
