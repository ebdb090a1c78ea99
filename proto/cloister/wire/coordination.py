"""What a coordinator and the aggregator say to each other (coordination.proto)."""

from datetime import date
from typing import Annotated

from pydantic import Field, field_validator

from cloister.v1 import coordination_pb2
from cloister.wire.base import (
    MAX_COHORT,
    MAX_TRANSCRIPT_BYTES,
    MOST_VALIDATIONS,
    Digest,
    Finite,
    JobPhase,
    Label,
    Number,
    OneOf,
    Part,
    PartyName,
    Pem,
    PlanBytes,
    RoundPhase,
    Sentence,
    WireMessage,
)


class SubmitJobPart(OneOf):
    """The plan, then the starting adapter."""

    proto = coordination_pb2.SubmitJobRequest
    plan: PlanBytes | None = None
    artifact: Part | None = None


class SubmittedJob(WireMessage):
    """The digest that names the job from now on."""

    proto = coordination_pb2.SubmitJobResponse
    job: Digest


class CancelJobRequest(WireMessage):
    """Ends a job."""

    proto = coordination_pb2.CancelJobRequest
    job: Digest


class SiloStatus(WireMessage):
    """One silo's progress in a job."""

    proto = coordination_pb2.SiloStatus
    silo: PartyName
    connected: bool
    joined: bool
    refused: bool
    in_round: bool
    submitted: bool
    consented: bool
    applied: bool
    bytes_received: Number


class Validation(WireMessage):
    """What a round published of the silos' held-out parts (privacy.metrics)."""

    proto = coordination_pb2.Validation
    round: Number
    accuracy: Finite
    loss: Finite
    units: Finite
    accuracy_error: Finite


class JobStatus(WireMessage):
    """A job as its coordinator sees it."""

    proto = coordination_pb2.JobStatus
    job: Digest
    name: PartyName
    phase: JobPhase
    reason: Sentence
    round: Number
    round_phase: RoundPhase
    rounds_published: Number
    rounds_planned: Number
    silos: Annotated[tuple[SiloStatus, ...], Field(max_length=MAX_COHORT)]
    validations: Annotated[tuple[Validation, ...], Field(max_length=MOST_VALIDATIONS)] = ()


class WatchedJob(WireMessage):
    """A job that changed."""

    proto = coordination_pb2.WatchJobsResponse
    job: JobStatus


class Jobs(WireMessage):
    """Jobs: some of them, of an answer in several messages."""

    proto = coordination_pb2.ListJobsResponse
    jobs: tuple[JobStatus, ...]


class ListRoundsRequest(WireMessage):
    """Asks for a job's rounds."""

    proto = coordination_pb2.ListRoundsRequest
    job: Digest


class RoundStatus(WireMessage):
    """A round as its coordinator sees it; times are the aggregator's."""

    proto = coordination_pb2.RoundStatus
    round: Number
    phase: RoundPhase
    participants: tuple[PartyName, ...]
    members: tuple[PartyName, ...]
    reason: Sentence
    opened_utc: Label
    closed_utc: Label
    seconds: Annotated[float, Field(ge=0)]
    aggregation_seconds: Annotated[float, Field(ge=0)]
    bytes_received: Number
    validations: Annotated[tuple[Validation, ...], Field(max_length=1)] = ()


class Rounds(WireMessage):
    """A job's rounds: some of them, of an answer in several messages."""

    proto = coordination_pb2.ListRoundsResponse
    rounds: tuple[RoundStatus, ...]


class Member(WireMessage):
    """An enrolled party."""

    proto = coordination_pb2.Member
    name: PartyName
    role: Label
    identity_key: Digest
    identity_certificate_pem: Pem
    connected: bool


class Members(WireMessage):
    """Enrolled parties: some of them, of an answer in several messages."""

    proto = coordination_pb2.ListMembersResponse
    members: tuple[Member, ...]


class FollowUp(WireMessage):
    """What an auditor's review, in this entry of the aggregator's ledger, asks for, and the day by which it is due."""

    proto = coordination_pb2.FollowUp
    entry: Number
    auditor: Sentence
    follow_up: Sentence
    due: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]

    @field_validator("due")
    @classmethod
    def _a_day(cls, due: str) -> str:
        date.fromisoformat(due)
        return due


class FollowUps(WireMessage):
    """What reviews ask for: some of it, of an answer in several messages."""

    proto = coordination_pb2.ListFollowUpsResponse
    follow_ups: tuple[FollowUp, ...]


class ExportTranscriptRequest(WireMessage):
    """Asks for a round's transcript."""

    proto = coordination_pb2.ExportTranscriptRequest
    job: Digest
    round: Number


class ExportedTranscript(WireMessage):
    """A round's transcript as canonical JSON."""

    proto = coordination_pb2.ExportTranscriptResponse
    transcript: Annotated[bytes, Field(min_length=2, max_length=MAX_TRANSCRIPT_BYTES)]


class JobCancelled(WireMessage):
    """The job is ended."""

    proto = coordination_pb2.CancelJobResponse


class WatchJobsRequest(WireMessage):
    """Asks for jobs as they change."""

    proto = coordination_pb2.WatchJobsRequest


class ListJobsRequest(WireMessage):
    """Asks for all jobs."""

    proto = coordination_pb2.ListJobsRequest


class ListMembersRequest(WireMessage):
    """Asks who is enrolled."""

    proto = coordination_pb2.ListMembersRequest


class ListFollowUpsRequest(WireMessage):
    """Asks what reviews of the ledger ask for."""

    proto = coordination_pb2.ListFollowUpsRequest


class FetchModelRequest(WireMessage):
    """Asks for a job's opened model."""

    proto = coordination_pb2.FetchModelRequest
    job: Digest


class FetchedModel(WireMessage):
    """A part of it."""

    proto = coordination_pb2.FetchModelResponse
    values: Part
