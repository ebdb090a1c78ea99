"""CoordinationService: decodes, asks the coordinator's desk, encodes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import grpc
from cloister import wire
from cloister.v1 import coordination_pb2_grpc

from aggregator.coordinator import CoordinatorDesk
from aggregator.presence import Stream
from aggregator.runner import Runner
from certs.names import Role
from privacy.errors import ProtocolError
from runtime.interceptors import peer_of

PREFIX = "/cloister.v1.CoordinationService/"
ROLES = {f"{PREFIX}{method}": frozenset({Role.COORDINATOR}) for method in ("SubmitJob", "CancelJob", "FetchModel")} | {
    f"{PREFIX}{method}": frozenset({Role.COORDINATOR, Role.AUDITOR})
    for method in ("WatchJobs", "ListJobs", "ListRounds", "ListMembers", "ListFollowUps", "ExportTranscript")
}
PAGE_BYTES = wire.MAX_CHUNK_BYTES // 2
Context = grpc.ServicerContext
M = TypeVar("M", bound=wire.WireMessage)


class CoordinationService(coordination_pb2_grpc.CoordinationServiceServicer):
    """For coordinators; auditors may read."""

    def __init__(
        self,
        runner: Runner,
        coordinator: CoordinatorDesk,
        check_caller: Callable[[Context], object],
    ) -> None:
        self._check_caller = check_caller  # raises once a caller's certificate is good no more
        self._runner = runner
        self._coordinator = coordinator

    def SubmitJob(self, request_iterator: Iterator[Any], context: Context) -> Any:  # noqa: N802, ANN401 - grpc's names
        """A plan, then the starting adapter."""
        parts = (wire.SubmitJobPart.decode(message) for message in request_iterator)
        first = next(parts, None)
        if first is None or first.plan is None:
            raise ProtocolError("job", "does not begin with its plan", "Send the plan first.")
        job = self._coordinator.submit(peer_of(context).name, first.plan, (_artifact(part) for part in parts))
        return wire.SubmittedJob(job=job).encode()

    def CancelJob(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401, ARG002
        """End a job."""
        self._coordinator.cancel(wire.CancelJobRequest.decode(request).job)
        return wire.JobCancelled().encode()

    def WatchJobs(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401
        """The jobs as they stand, then each again whenever it changes."""
        wire.WatchJobsRequest.decode(request)
        sent = dict[bytes, wire.JobStatus]()
        stream = Stream(None, lambda: self._check_caller(context), context.cancel)
        self._runner.open_stream(stream)
        if not context.add_callback(lambda: self._runner.close_stream(stream)):
            self._runner.close_stream(stream)
        for statuses in self._runner.changes(stream, lambda: self._coordinator.changed(sent)):
            yield from (wire.WatchedJob(job=status).encode() for status in statuses)

    def ListJobs(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401, ARG002
        """All jobs."""
        wire.ListJobsRequest.decode(request)
        return _pages(wire.Jobs, "jobs", self._coordinator.statuses())

    def ListRounds(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401, ARG002
        """A job's rounds."""
        return _pages(wire.Rounds, "rounds", self._coordinator.rounds(wire.ListRoundsRequest.decode(request).job))

    def ListMembers(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401, ARG002
        """Who is enrolled."""
        wire.ListMembersRequest.decode(request)
        return _pages(wire.Members, "members", self._coordinator.members())

    def ListFollowUps(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401, ARG002
        """What reviews of the ledger ask for."""
        wire.ListFollowUpsRequest.decode(request)
        return _pages(wire.FollowUps, "follow_ups", self._coordinator.follow_ups())

    def ExportTranscript(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401, ARG002
        """One round's transcript."""
        asked = wire.ExportTranscriptRequest.decode(request)
        return wire.ExportedTranscript(transcript=self._coordinator.transcript(asked.job, asked.round)).encode()

    def FetchModel(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401
        """The opened model of a job that opens to the aggregator."""
        for part in self._coordinator.model(wire.FetchModelRequest.decode(request).job):
            self._check_caller(context)
            yield wire.FetchedModel(values=part).encode()


def _pages(listed: type[M], field: str, items: Iterable[wire.WireMessage]) -> Iterator[Any]:
    """Messages of at most `PAGE_BYTES`, however many items there are; at least one."""
    page: list[wire.WireMessage] = []
    size = 0
    for item in items:
        item_bytes = item.encode().ByteSize()
        if page and size + item_bytes > PAGE_BYTES:
            yield listed.model_validate({field: tuple(page)}).encode()
            page, size = [], 0
        page.append(item)
        size += item_bytes
    yield listed.model_validate({field: tuple(page)}).encode()


def _artifact(part: wire.SubmitJobPart) -> bytes:
    if part.artifact is None:
        raise ProtocolError("job", "has two plans", "Send one plan, then the starting adapter.")
    return part.artifact
