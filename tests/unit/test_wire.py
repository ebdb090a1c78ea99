"""The wire's strict decoding: what is well formed comes back, all else is a ProtocolError naming the field."""

import pytest
from cloister import wire
from cloister.v1 import common_pb2, coordination_pb2, federation_pb2

from privacy.errors import ProtocolError
from privacy.statement import Signed

SIGNED = Signed(b"{}", b"s" * 64)


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


def test_unknown_fields_are_refused() -> None:
    sent = coordination_pb2.CancelJobRequest(job=bytes(32)).SerializeToString() + b"\xa0\x06\x01"
    with pytest.raises(ProtocolError, match="does not know"):
        wire.CancelJobRequest.decode(coordination_pb2.CancelJobRequest.FromString(sent))
