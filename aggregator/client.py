"""What a coordinator's machine says to the aggregator: mTLS with the coordinator's wallet, every call with a deadline.

with coordinator(StateFolder(path)) as aggregator:
    job = aggregator.submit(folder)
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import grpc
from cloister import wire
from cloister.v1 import coordination_pb2_grpc

from aggregator.config import StateFolder
from certs.wallet import Wallet
from privacy.review import OpenReview
from runtime.channels import open_channel
from runtime.files import read_file
from runtime.naming import job_meant
from runtime.status import peer_call

CALL_S = 30.0
UPLOAD_S = 600.0
WATCH_S = 7 * 86_400.0
PLAN_FILE = "plan.json"
ARTIFACT_FILE = "adapter.safetensors"
_MAX_PLAN_BYTES = 512 << 10


class Coordination:
    """The calls of CoordinationService. Raises what the aggregator raised, and Unavailable when it does not answer."""

    def __init__(self, channel: grpc.Channel, address: str) -> None:
        self._stub: Any = coordination_pb2_grpc.CoordinationServiceStub(channel)
        self._address = address  # named when it does not answer

    def _calling(self, what: str) -> AbstractContextManager[None]:
        return peer_call(f"{what} at {self._address}")

    def submit(self, folder: Path) -> bytes:
        """Submit a prepared job folder; returns the job's digest."""
        plan = read_file(folder / PLAN_FILE, "Name a folder that `cloister job plan` wrote.", _MAX_PLAN_BYTES)
        with self._calling("submitting the job"):
            answer = self._stub.SubmitJob(_submission(plan, folder / ARTIFACT_FILE), timeout=UPLOAD_S)
        return wire.SubmittedJob.decode(answer).job

    def cancel(self, job: bytes) -> None:
        """End a job."""
        with self._calling("cancelling the job"):
            self._stub.CancelJob(wire.CancelJobRequest(job=job).encode(), timeout=CALL_S)

    def jobs(self) -> tuple[wire.JobStatus, ...]:
        """All jobs, oldest first."""
        with self._calling("listing jobs"):
            pages = self._stub.ListJobs(wire.ListJobsRequest().encode(), timeout=CALL_S)
            return tuple(job for page in pages for job in wire.Jobs.decode(page).jobs)

    def find(self, name: str) -> wire.JobStatus:
        """The job with this name, or whose digest begins so. Raises ConfigError unless there is exactly one."""
        jobs = {job.job.hex(): job for job in self.jobs()}
        return jobs[job_meant(name, {digest: job.name for digest, job in jobs.items()})]

    def watch(self) -> Iterator[wire.JobStatus]:
        """The jobs as they stand, then each again whenever it changes; ends with the connection, or after `WATCH_S`."""
        with self._calling("watching jobs"):
            for message in self._stub.WatchJobs(wire.WatchJobsRequest().encode(), timeout=WATCH_S):
                yield wire.WatchedJob.decode(message).job

    def rounds(self, job: bytes) -> tuple[wire.RoundStatus, ...]:
        """A job's rounds."""
        with self._calling("listing rounds"):
            pages = self._stub.ListRounds(wire.ListRoundsRequest(job=job).encode(), timeout=CALL_S)
            return tuple(each for page in pages for each in wire.Rounds.decode(page).rounds)

    def members(self) -> tuple[wire.Member, ...]:
        """Who is enrolled."""
        with self._calling("listing members"):
            pages = self._stub.ListMembers(wire.ListMembersRequest().encode(), timeout=CALL_S)
            return tuple(member for page in pages for member in wire.Members.decode(page).members)

    def follow_ups(self) -> tuple[OpenReview, ...]:
        """What auditors' reviews of the aggregator's ledger ask for, the one that is due first first."""
        with self._calling("listing what reviews ask for"):
            pages = self._stub.ListFollowUps(wire.ListFollowUpsRequest().encode(), timeout=CALL_S)
            found = [one for page in pages for one in wire.FollowUps.decode(page).follow_ups]
        return tuple(OpenReview(one.entry, one.auditor, one.follow_up, date.fromisoformat(one.due)) for one in found)

    def transcript(self, job: bytes, number: int) -> bytes:
        """One round's record as canonical JSON."""
        asked = wire.ExportTranscriptRequest(job=job, round=number)
        with self._calling("fetching the transcript"):
            answer = self._stub.ExportTranscript(asked.encode(), timeout=CALL_S)
        return wire.ExportedTranscript.decode(answer).transcript

    def model(self, job: bytes) -> Iterator[wire.FetchedModel]:
        """The opened model of a job, in parts: little-endian float32."""
        with self._calling("fetching the model"):
            for message in self._stub.FetchModel(wire.FetchModelRequest(job=job).encode(), timeout=UPLOAD_S):
                yield wire.FetchedModel.decode(message)


@contextmanager
def coordinator(state: StateFolder) -> Iterator[Coordination]:
    """A connection as the coordinator whose wallet lies in the aggregator's state folder."""
    config = state.load()
    address = config.public_address or config.listen
    with open_channel(address, Wallet(state.coordinator), datetime.now(UTC)) as channel:
        yield Coordination(channel, address)


def _submission(plan: bytes, artifact: Path) -> Iterator[Any]:
    yield wire.SubmitJobPart(plan=plan).encode()
    if artifact.exists():
        with artifact.open("rb") as file:
            while part := file.read(wire.MAX_CHUNK_BYTES):
                yield wire.SubmitJobPart(artifact=part).encode()
