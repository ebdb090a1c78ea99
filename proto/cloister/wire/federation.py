"""What silos and the aggregator say to each other (federation.proto)."""

from typing import Annotated

from pydantic import Field

from cloister.v1 import federation_pb2
from cloister.wire.base import (
    MAX_COHORT,
    Digest,
    JobPhase,
    Label,
    Number,
    OneOf,
    Part,
    PartyName,
    Pem,
    PlanBytes,
    RoundPhase,
    WireMessage,
)
from privacy.statement import Signed

Digests = Annotated[bytes, Field(min_length=32, max_length=32 * MAX_COHORT)]


class FollowRequest(WireMessage):
    """Opens a silo's stream of notices."""

    proto = federation_pb2.FollowRequest
    software: Label


class Notice(WireMessage):
    """A job or its round changed phase."""

    proto = federation_pb2.FollowResponse
    job: Digest
    job_phase: JobPhase
    round: Number
    round_phase: RoundPhase


class GetJobRequest(WireMessage):
    """Asks for a job."""

    proto = federation_pb2.GetJobRequest
    job: Digest


class Job(WireMessage):
    """A job as its silos see it."""

    proto = federation_pb2.GetJobResponse
    plan: PlanBytes
    phase: JobPhase
    joins: Annotated[tuple[Signed, ...], Field(max_length=MAX_COHORT)]
    deal: Signed | None
    mail: Annotated[bytes, Field(max_length=64 << 10)]
    opened_rounds: Annotated[tuple[Number, ...], Field(max_length=20_000)]
    current_round: Number
    model_wanted: Number = 0


class FetchArtifactRequest(WireMessage):
    """Asks for the job's starting adapter."""

    proto = federation_pb2.FetchArtifactRequest
    job: Digest


class ArtifactChunk(WireMessage):
    """A part of the starting adapter."""

    proto = federation_pb2.FetchArtifactResponse
    chunk: Part


class JoinJobRequest(WireMessage):
    """A signed JobJoin."""

    proto = federation_pb2.JoinJobRequest
    join: Signed


class RefuseJobRequest(WireMessage):
    """A signed JobRefusal."""

    proto = federation_pb2.RefuseJobRequest
    refusal: Signed


class Mail(WireMessage):
    """A sealed mail and whom it is for."""

    proto = federation_pb2.Mail
    to: PartyName
    sealed: Annotated[bytes, Field(min_length=1, max_length=64 << 10)]


class DealKeyRequest(WireMessage):
    """A signed KeyDeal and its mails."""

    proto = federation_pb2.DealKeyRequest
    deal: Signed
    mails: Annotated[tuple[Mail, ...], Field(max_length=MAX_COHORT)]


class GetRoundRequest(WireMessage):
    """Asks for what a round has so far."""

    proto = federation_pb2.GetRoundRequest
    job: Digest
    round: Number


class Round(WireMessage):
    """What a round has so far."""

    proto = federation_pb2.GetRoundResponse
    phase: RoundPhase
    participants: Annotated[tuple[PartyName, ...], Field(max_length=MAX_COHORT)]
    adapter_digest: Digest
    joins: Annotated[tuple[Signed, ...], Field(max_length=MAX_COHORT)]
    commit: Signed | None
    headers: Annotated[tuple[Signed, ...], Field(max_length=MAX_COHORT)]
    fingerprints: Annotated[tuple[Signed, ...], Field(max_length=MAX_COHORT)]
    consents: Annotated[tuple[Signed, ...], Field(max_length=MAX_COHORT)]
    releases: Annotated[tuple[Signed, ...], Field(max_length=MAX_COHORT)]
    applied: Annotated[tuple[Signed, ...], Field(max_length=MAX_COHORT)]


class JoinRoundRequest(WireMessage):
    """A signed RoundJoin."""

    proto = federation_pb2.JoinRoundRequest
    join: Signed


class UpdatePart(OneOf):
    """The header, then seeds or share mails, then residue chunks."""

    proto = federation_pb2.SubmitUpdateRequest
    header: Signed | None = None
    seeds: Part | None = None
    mails: Part | None = None
    residues: Part | None = None


class WithdrawRoundRequest(WireMessage):
    """A signed Withdrawal."""

    proto = federation_pb2.WithdrawRoundRequest
    withdrawal: Signed


class SendFingerprintRequest(WireMessage):
    """A signed Fingerprint."""

    proto = federation_pb2.SendFingerprintRequest
    fingerprint: Signed


class FetchSumRequest(WireMessage):
    """Asks for a round's sum."""

    proto = federation_pb2.FetchSumRequest
    job: Digest
    round: Number


class MemberSeeds(WireMessage):
    """A part of one member's seeds."""

    proto = federation_pb2.MemberSeeds
    silo: PartyName
    part: Part


class SumPart(OneOf):
    """The members' seeds, then the residue chunks."""

    proto = federation_pb2.FetchSumResponse
    seeds: MemberSeeds | None = None
    residues: Part | None = None


class FetchMailsRequest(WireMessage):
    """Asks for the share mails to the caller."""

    proto = federation_pb2.FetchMailsRequest
    job: Digest
    round: Number


class ShareMail(WireMessage):
    """One sender's share mail to the caller, and the digests of all its mails."""

    proto = federation_pb2.FetchMailsResponse
    sender: PartyName
    digests: Digests
    sealed: Annotated[bytes, Field(min_length=1, max_length=64 << 10)]


class SendReleaseRequest(WireMessage):
    """A signed Release with what it is of."""

    proto = federation_pb2.SendReleaseRequest
    release: Signed
    body: Annotated[bytes, Field(min_length=1, max_length=64 << 10)]
    mails: Annotated[bytes, Field(min_length=1, max_length=256 << 10)]


class FetchReleasesRequest(WireMessage):
    """Asks for the releases of a round."""

    proto = federation_pb2.FetchReleasesRequest
    job: Digest
    round: Number


class ShownRelease(WireMessage):
    """One release with the caller's mail, and the digests of all its mails."""

    proto = federation_pb2.FetchReleasesResponse
    release: Signed
    body: Annotated[bytes, Field(min_length=1, max_length=64 << 10)]
    digests: Digests
    mail: Annotated[bytes, Field(min_length=1, max_length=4 << 10)]


class ConsentRoundRequest(WireMessage):
    """A signed Consent."""

    proto = federation_pb2.ConsentRoundRequest
    consent: Signed


class ReportAppliedRequest(WireMessage):
    """A signed Applied."""

    proto = federation_pb2.ReportAppliedRequest
    applied: Signed


class RenewCertificateRequest(WireMessage):
    """A request for the caller's next TLS certificate."""

    proto = federation_pb2.RenewCertificateRequest
    tls_csr_pem: Pem


class RenewedCertificate(WireMessage):
    """The next TLS certificate."""

    proto = federation_pb2.RenewCertificateResponse
    tls_certificate_pem: Pem


# What carries nothing but "it is recorded".


class JobJoinTaken(WireMessage):
    """A JobJoin is recorded."""

    proto = federation_pb2.JoinJobResponse


class JobRefusalTaken(WireMessage):
    """A JobRefusal is recorded."""

    proto = federation_pb2.RefuseJobResponse


class KeyDealTaken(WireMessage):
    """A KeyDeal and its mails are recorded."""

    proto = federation_pb2.DealKeyResponse


class RoundJoinTaken(WireMessage):
    """A RoundJoin is recorded."""

    proto = federation_pb2.JoinRoundResponse


class UpdateTaken(WireMessage):
    """An update is verified, on disk and recorded."""

    proto = federation_pb2.SubmitUpdateResponse


class WithdrawalTaken(WireMessage):
    """A Withdrawal is recorded."""

    proto = federation_pb2.WithdrawRoundResponse


class FingerprintTaken(WireMessage):
    """A Fingerprint is recorded."""

    proto = federation_pb2.SendFingerprintResponse


class ConsentTaken(WireMessage):
    """A Consent is recorded."""

    proto = federation_pb2.ConsentRoundResponse


class ReleaseTaken(WireMessage):
    """A Release is recorded."""

    proto = federation_pb2.SendReleaseResponse


class ModelName(WireMessage):
    """Which global adapter: that after this round."""

    proto = federation_pb2.ModelName
    job: Digest
    round: Number


class ModelPart(OneOf):
    """The name, then the coordinates."""

    proto = federation_pb2.SubmitModelRequest
    model: ModelName | None = None
    values: Part | None = None


class ModelTaken(WireMessage):
    """The model is stored."""

    proto = federation_pb2.SubmitModelResponse


class AppliedTaken(WireMessage):
    """An Applied is recorded."""

    proto = federation_pb2.ReportAppliedResponse
