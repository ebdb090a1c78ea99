"""The wire's strict decoding: what is well formed comes back, all else is a ProtocolError naming the field."""

import pytest
from cloister import wire
from cloister.v1 import common_pb2, coordination_pb2, federation_pb2

from privacy.ckks.multikey_params import MultikeyParams
from privacy.envelope import KeyedUpdateHeader
from privacy.errors import ProtocolError
from privacy.keyed import KeyedRoundJoin, Release
from privacy.mail import MailKey
from privacy.record import RoundRecord, SignedText
from privacy.statement import Signed, Statement
from privacy.transcript import Applied, CommitMember, Consent, Fingerprint, RoundCommit

SIGNED = Signed(b"{}", b"s" * 64)
FOLLOW_UP = wire.FollowUp(entry=3, auditor="cloister://f/auditor/a", follow_up="name a deputy", due="2026-12-31")


def test_every_message_survives_the_wire() -> None:
    messages = [
        wire.Notice(job=b"j" * 32, job_phase=wire.JobPhase.RUNNING, round=3, round_phase=wire.RoundPhase.COMMITTED),
        wire.DealKeyRequest(deal=SIGNED, mails=(wire.Mail(to="a", sealed=b"x"), wire.Mail(to="b", sealed=b"y"))),
        wire.UpdatePart(residues=b"r" * 1000),
        wire.UpdatePart(header=SIGNED),
        wire.SumPart(seeds=wire.MemberSeeds(silo="a", part=b"p")),
        wire.Job(
            plan=b"{}",
            phase=wire.JobPhase.DEALING,
            joins=(SIGNED,),
            deal=None,
            mail=b"",
            opened_rounds=(1, 2),
            current_round=3,
        ),
        wire.FollowUps(follow_ups=(FOLLOW_UP,)),
    ]
    for message in messages:
        again = type(message).decode(type(message).proto.FromString(message.encode().SerializeToString()))
        assert again == message


def test_wrong_lengths_and_enums_are_refused_by_name() -> None:
    with pytest.raises(ProtocolError, match="job"):
        wire.GetJobRequest.decode(federation_pb2.GetJobRequest(job=b"short"))
    with pytest.raises(ProtocolError, match="job_phase"):
        wire.Notice.decode(federation_pb2.FollowResponse(job=b"j" * 32, round_phase=common_pb2.ROUND_PHASE_ANNOUNCED))
    with pytest.raises(ProtocolError, match="body"):
        wire.JoinJobRequest.decode(
            federation_pb2.JoinJobRequest(join=common_pb2.SignedStatement(body=b"", signature=b"s" * 64))
        )


def test_a_missing_statement_and_an_empty_part_are_refused() -> None:
    with pytest.raises(ProtocolError, match="join"):
        wire.JoinJobRequest.decode(federation_pb2.JoinJobRequest())
    with pytest.raises(ProtocolError, match="exactly one part"):
        wire.UpdatePart.decode(federation_pb2.SubmitUpdateRequest())
    with pytest.raises(ProtocolError, match="residues"):
        wire.UpdatePart.decode(federation_pb2.SubmitUpdateRequest(residues=b"x" * (wire.MAX_CHUNK_BYTES + 1)))


@pytest.mark.parametrize("due", ["", "soon", "20261231", "2026-02-30", "2026-12-31T00:00"])
def test_a_follow_up_is_due_on_a_day(due: str) -> None:
    sent = coordination_pb2.FollowUp(entry=3, auditor="a", follow_up="b", due=due)
    with pytest.raises(ProtocolError, match="due"):
        wire.FollowUp.decode(sent)


def test_unknown_fields_are_refused() -> None:
    sent = coordination_pb2.CancelJobRequest(job=bytes(32)).SerializeToString() + b"\xa0\x06\x01"
    with pytest.raises(ProtocolError, match="does not know"):
        wire.CancelJobRequest.decode(coordination_pb2.CancelJobRequest.FromString(sent))


def test_all_that_a_hundred_silos_say_in_a_round_fits_into_one_message() -> None:
    digest, name = "f" * 64, "n" * 63
    names = tuple(f"{i:03d}{'n' * 60}" for i in range(100))
    bound = {"plan": digest, "round": 20_000, "ctx": digest, "silo": name}
    numbers = 5 * len(MultikeyParams("large", 100, 16).primes)
    keys = [MailKey.generate().public_bytes.hex() for _ in range(2)]

    def hundred(statement: Statement) -> tuple[Signed, ...]:
        return (Signed(statement.body(), b"s" * 64),) * 100

    joins = hundred(KeyedRoundJoin(share_key=keys[0], open_key=keys[1], **bound))
    headers = hundred(KeyedUpdateHeader(values=200_000_000, roll=digest, residues_root=digest, mails=digest, **bound))
    fingerprints = hundred(Fingerprint(commit=digest, unopened=names, value="ff" * 8 * numbers, **bound))
    consents = hundred(Consent(transcript=digest, **bound))
    releases = hundred(Release(transcript=digest, body_sha256=digest, mails=digest, **bound))
    applied = hundred(Applied(adapter=digest, **bound))
    members = tuple(CommitMember(silo=each, header=digest) for each in names)
    spoken = {key: bound[key] for key in ("plan", "round", "ctx")}
    commit = RoundCommit(aggregator=name, attempt=100, members=members, sum_root=digest, **spoken)
    shown = wire.Round(
        phase=wire.RoundPhase.PUBLISHED,
        participants=names,
        adapter_digest=b"d" * 32,
        joins=joins,
        commit=Signed(commit.body(), b"s" * 64),
        headers=headers,
        fingerprints=fingerprints,
        consents=consents,
        releases=releases,
        applied=applied,
    )
    assert len(shown.encode().SerializeToString()) < wire.MAX_ANSWER_BYTES

    def texts(statements: tuple[Signed, ...]) -> tuple[SignedText, ...]:
        return tuple(SignedText.of(each) for each in statements)

    record = RoundRecord(
        plan='"' * (256 << 10),
        job_joins=texts(joins),
        deal=None,
        round=20_000,
        adapter_digest=digest,
        participants=names,
        round_joins=texts(joins),
        commit=SignedText.of(Signed(commit.body(), b"s" * 64)),
        headers=texts(headers),
        fingerprints=texts(fingerprints),
        consents=texts(consents),
        releases=texts(releases),
        applied=texts(applied),
    )
    exported = wire.ExportedTranscript(transcript=record.encode())
    assert len(exported.encode().SerializeToString()) < wire.MAX_ANSWER_BYTES
