"""Whatever bytes an auditor is handed: a parse, or an error of ours. What parses, encodes back the same.

Sound files that were changed reach further than bytes at random; both are tried.
"""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.verification import trusted_by_key, verified
from privacy.canonical import canonical_json
from privacy.errors import ConfigError, ProtocolError, VerificationError
from privacy.ledger.checkpoint import join_notes, open_checkpoint, split_notes
from privacy.ledger.codec import decode_entry, encode_entry
from privacy.ledger.handed import HandedCosignature, SeenLogs, SeenState
from privacy.ledger.openings import Opening
from privacy.plan import JobPlan
from privacy.record import RoundRecord, check_record
from privacy.review import SignedReview
from privacy.two_person import BudgetChange, ChangeStatement, Proposal
from runtime.bundle import opened_bundle
from runtime.bundle_form import CHECKPOINTS, OPENINGS
from tests.bundles import Members, made_up, written
from tests.fuzz.resigned import cosigned_at, verify_redrawn
from tests.ledger_logs import ORIGIN, PEOPLE, rotated_log
from tests.unit.test_federation_round_report import recorded

FAULTS = (ProtocolError, VerificationError, ConfigError)
LOG = rotated_log()
BOUNDED = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
FEWER = settings(BOUNDED, max_examples=250)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("records")
    return [recorded(suite, folder)[0].read_bytes() for suite in ("group", "multikey")]


@pytest.fixture(scope="module")
def members() -> Members:
    return made_up(LOG)


@st.composite
def changed(draw: st.DrawFn, sound: bytes) -> bytes:
    """A sound encoding with up to three places replaced, taken out, doubled or swapped; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = sound
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.binary(max_size=8), st.just(data[start:end] * 2), st.sampled_from(INTERESTING)))
        data = data[:start] + piece + data[end:]
    return data


INTERESTING = [
    b"null",
    b"-1",
    b"1e400",
    b"[]",
    b"{}",
    b'""',
    b"\\ud800",
    b"\xff",
    b"0",
    b"9" * 400,
    b"[" * 2000,
    b"\x00",
]


def outcome(decode: Callable[[bytes], bytes], data: bytes) -> None:
    """Parses and encodes back, or is refused for a reason; nothing else is raised."""
    try:
        again = decode(data)
    except FAULTS:
        return
    assert again == data


@given(st.data())
@BOUNDED
def test_entries(data):
    sound = data.draw(st.sampled_from(LOG.entries))
    outcome(lambda raw: encode_entry(decode_entry(raw)), data.draw(changed(sound)))


@given(st.data())
@BOUNDED
def test_plans_and_transcripts(records, data):
    sound = data.draw(st.sampled_from(records))
    plan = RoundRecord.decode(sound).plan.encode()
    outcome(lambda raw: JobPlan.decode(raw).encode(), data.draw(changed(plan)))
    outcome(lambda raw: RoundRecord.decode(raw).encode(), data.draw(changed(sound)))


@given(st.data())
@BOUNDED
def test_a_transcript_that_parses_is_sound_or_refused(records, data):
    """One string inside is changed, so that it parses and every check further in is reached."""
    record = RoundRecord.decode(data.draw(st.sampled_from(records)))
    field = data.draw(st.sampled_from(["headers", "consents", "fingerprints", "round_joins", "job_joins"]))
    said = list(getattr(record, field))
    place = data.draw(st.integers(0, len(said) - 1))
    body = data.draw(changed(said[place].body.encode()))
    said[place] = said[place].model_copy(update={"body": body.decode(errors="replace")})
    forged = record.model_copy(update={field: tuple(said)})
    if forged != record:
        with pytest.raises(FAULTS):
            check_record(forged)


@given(st.data())
@BOUNDED
def test_checkpoints(data):
    raw = data.draw(changed(join_notes(tuple(LOG.notes)).encode()))
    text = raw.decode(errors="replace")
    outcome(lambda raw: join_notes(split_notes(raw.decode())).encode(), text.encode())
    try:
        notes = split_notes(text)
    except FAULTS:
        return
    for note in notes:
        try:
            assert open_checkpoint(note, ORIGIN, LOG.public_key).origin == ORIGIN
        except FAULTS:
            continue


@given(st.data())
@FEWER
def test_bundles_of_changed_members(members, tmp_path_factory, data):
    """The ZIP is sound. One that verifies has certificates or checkpoints that say no more than the sound one's."""
    name = data.draw(st.sampled_from(list(members)))
    content = data.draw(changed(members[name]))
    path = written(tmp_path_factory.getbasetemp() / "members.zip", members | {name: content})
    try:
        with opened_bundle(path) as opened:
            verified(opened, trusted_by_key(opened, LOG.public_key.hex()))
    except FAULTS:
        assert content != members[name]
        return
    assert content == members[name] or name.endswith(".pem") or name == CHECKPOINTS


@given(st.data())
@FEWER
def test_openings(members, tmp_path_factory, data):
    lines = b"".join(canonical_json(Opening.of(text, bytes(32)).model_dump()) + b"\n" for text in ("dr-weber", "é"))
    content = data.draw(changed(lines))
    path = written(tmp_path_factory.getbasetemp() / "openings.zip", members | {OPENINGS: content})
    try:
        with opened_bundle(path) as opened:
            found = opened.openings()
    except FAULTS:
        return
    assert b"".join(canonical_json(opening.model_dump()) + b"\n" for opening in found) == content


@given(st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_logs_that_their_owner_signed_anew(draw):
    """A report, or a fault that is named: also at the edges of what times and mechanisms there are."""
    with contextlib.suppress(VerificationError):
        verify_redrawn(draw)


SECONDS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 64).map(lambda bits: (1 << bits) - 1))


@given(SECONDS, st.binary(max_size=2))
@BOUNDED
def test_cosignatures_of_any_time(seconds, more):
    """By the witness that the line names."""
    with contextlib.suppress(VerificationError):
        cosigned_at(LOG.notes[0], seconds, more)


@given(st.data())
@FEWER
def test_bundles(members, tmp_path_factory, data):
    """A bundle that opens is the sound one: every byte of it is somebody's."""
    path = tmp_path_factory.getbasetemp() / "changed.zip"
    bundle = written(path, members).read_bytes()
    content = data.draw(changed(bundle))
    path.write_bytes(content)
    try:
        with opened_bundle(path) as opened:
            list(opened.entries())
            opened.notes()
            opened.leaves()
            dict(opened.evidence().transcripts)
            opened.witnesses()
    except FAULTS:
        return
    assert content == bundle


@pytest.mark.parametrize("place", range(4))
def test_files_that_people_hand_over_parse_or_are_refused(place):
    """Proposals, reviews, cosignatures, what an auditor has seen: a parse to the same bytes, or a ProtocolError."""
    decode, sound = handed()[place]
    assert decode(sound).encode() == sound

    @BOUNDED
    @given(content=changed(sound))
    def mutated(content):
        try:
            made = decode(content)
        except ProtocolError:
            return
        assert made.encode() == content

    mutated()


def handed():
    reviews = [decode_entry(body) for body in LOG.entries if b'"kind":"review"' in body]
    review = SignedReview(review=reviews[0].review, signature=reviews[0].signature, certificate="none")
    change = BudgetChange(population="cardiology", epsilon_before=2.0, epsilon=3.0)
    said = {"key": "0c" * 32, "number": 3, "reason": "a second study", "expires": "2026-03-31T09:00:00Z"}
    statement = ChangeStatement(log=ORIGIN, change=change, **said)
    signers = {person: key.public_key().public_bytes_raw().hex() for person, key in PEOPLE.items()}
    proposal = Proposal(statement=statement, signers=signers).signed("dr-weber", PEOPLE["dr-weber"].sign)
    cosigned = HandedCosignature(log=ORIGIN, size=3, line="— cloister/heart/auditor/a AAAA", certificate="none")
    seen = SeenLogs(logs={ORIGIN: SeenState(size=3, root="00" * 32)})
    decoders = (SignedReview.decode, Proposal.decode, HandedCosignature.decode, SeenLogs.decode)
    return list(zip(decoders, (each.encode() for each in (review, proposal, cosigned, seen)), strict=True))
