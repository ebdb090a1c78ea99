"""FederationService: decodes, asks a desk, encodes. Errors become statuses in runtime.interceptors."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from cloister import wire
from cloister.v1 import federation_pb2_grpc

from aggregator.accumulate import Upload
from aggregator.model import ModelDesk
from aggregator.presence import Stream
from aggregator.reading import ReadingDesk, Standing
from aggregator.runner import Runner
from aggregator.slots import UploadSlots
from aggregator.statements import StatementDesk
from aggregator.witnessing import WitnessDesk
from certs.enrolment import EnrolmentDesk
from certs.names import Role
from privacy.errors import ProtocolError
from runtime.interceptors import peer_of

PREFIX = "/cloister.v1.FederationService/"
METHODS = (
    "Follow", "GetJob", "FetchArtifact", "JoinJob", "RefuseJob", "DealKey", "GetRound", "JoinRound", "SubmitUpdate",
    "WithdrawRound", "SendFingerprint", "FetchSum", "FetchMails", "ConsentRound", "SendRelease", "FetchReleases",
    "ReportApplied", "SubmitModel", "ExchangeCheckpoints",
)  # fmt: skip
ROLES = {f"{PREFIX}{method}": frozenset({Role.SILO}) for method in METHODS} | {
    f"{PREFIX}RenewCertificate": frozenset({Role.SILO, Role.COORDINATOR, Role.AUDITOR})
}
Context = grpc.ServicerContext


class FederationService(federation_pb2_grpc.FederationServiceServicer):
    """One method per step of docs/reference/protocol.md; the caller is whom its certificate names."""

    def __init__(
        self,
        runner: Runner,
        reading: ReadingDesk,
        statements: StatementDesk,
        models: ModelDesk,
        witnesses: WitnessDesk,
        desk: EnrolmentDesk,
        slots: UploadSlots,
        check_caller: Callable[[Context], object],
    ) -> None:
        self._check_caller = check_caller  # raises once a caller's certificate is good no more
        self._runner = runner
        self._slots = slots
        self._reading = reading
        self._statements = statements
        self._models = models
        self._witnesses = witnesses
        self._desk = desk

    def Follow(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401 - grpc's names and types
        """Notices, for as long as the silo stays; the open stream is what "connected" means."""
        wire.FollowRequest.decode(request)
        silo, sent = _silo(context), dict[bytes, Standing]()
        stream = Stream(silo, lambda: self._check_caller(context), context.cancel)
        self._runner.open_stream(stream)
        if not context.add_callback(lambda: self._runner.close_stream(stream)):
            self._runner.close_stream(stream)
        for notices in self._runner.changes(stream, lambda: self._reading.notices(silo, sent)):
            yield from (notice.encode() for notice in notices)

    def GetJob(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """The job as the caller may see it."""
        return self._reading.job(_silo(context), wire.GetJobRequest.decode(request).job).encode()

    def FetchArtifact(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401
        """The starting adapter."""
        job = wire.FetchArtifactRequest.decode(request).job
        for part in self._reading.artifact(_silo(context), job):
            yield wire.ArtifactChunk(chunk=part).encode()

    def JoinJob(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """The silo takes part."""
        self._statements.join_job(_silo(context), wire.JoinJobRequest.decode(request).join)
        return wire.JobJoinTaken().encode()

    def RefuseJob(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """The silo takes no part."""
        self._statements.refuse_job(_silo(context), wire.RefuseJobRequest.decode(request).refusal)
        return wire.JobRefusalTaken().encode()

    def DealKey(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """The dealer's deal and mails."""
        asked = wire.DealKeyRequest.decode(request)
        mails = {mail.to: mail.sealed for mail in asked.mails}
        if len(mails) != len(asked.mails):
            raise ProtocolError("key deal", "has two mails for one silo", "It was not accepted.", step="deal")
        self._statements.deal_key(_silo(context), asked.deal, mails)
        return wire.KeyDealTaken().encode()

    def GetRound(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """What the round has so far."""
        asked = wire.GetRoundRequest.decode(request)
        return self._reading.round(_silo(context), asked.job, asked.round).encode()

    def JoinRound(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """Step 0."""
        self._statements.join_round(_silo(context), wire.JoinRoundRequest.decode(request).join)
        return wire.RoundJoinTaken().encode()

    def SubmitUpdate(self, request_iterator: Iterator[Any], context: Context) -> Any:  # noqa: N802, ANN401
        """Step 1: a header, its seeds, its residue chunks. An update that was accepted before is not read again."""
        parts = _parts(request_iterator)
        first = next(parts, None)
        if first is None or first.header is None:
            raise ProtocolError("update", "does not begin with its header", "Send the header first.", step="submit")
        silo = _silo(context)
        upload = self._statements.open_upload(silo, first.header)
        if upload is not None:
            with self._statements.uploading(upload, context.cancel), self._slots.place(silo, context) as slot, upload:
                for part in parts:
                    self._check_caller(context)
                    self._slots.progressed(slot, _stage(upload, part))
                    del part
                staged = upload.finish()
            self._statements.accept(staged)
        return wire.UpdateTaken().encode()

    def WithdrawRound(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """Step 1: nothing will come."""
        self._statements.withdraw(_silo(context), wire.WithdrawRoundRequest.decode(request).withdrawal)
        return wire.WithdrawalTaken().encode()

    def SendFingerprint(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """Step 3."""
        self._statements.fingerprint(_silo(context), wire.SendFingerprintRequest.decode(request).fingerprint)
        return wire.FingerprintTaken().encode()

    def FetchSum(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401
        """Step 2: the committed sum."""
        asked = wire.FetchSumRequest.decode(request)
        for part in self._reading.sum(_silo(context), asked.job, asked.round):
            self._check_caller(context)
            yield part.encode()
            del part  # while gRPC waits for the silo to read, one copy is enough

    def FetchMails(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401
        """Steps 3 and 5: the caller's share mails."""
        asked = wire.FetchMailsRequest.decode(request)
        for mail in self._reading.mails(_silo(context), asked.job, asked.round):
            yield mail.encode()

    def SendRelease(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """Step 6."""
        asked = wire.SendReleaseRequest.decode(request)
        self._statements.release(_silo(context), asked.release, asked.body, asked.mails)
        return wire.ReleaseTaken().encode()

    def FetchReleases(self, request: Any, context: Context) -> Iterator[Any]:  # noqa: N802, ANN401
        """Step 7: what opens the sum."""
        asked = wire.FetchReleasesRequest.decode(request)
        for release in self._reading.releases(_silo(context), asked.job, asked.round):
            yield release.encode()

    def ConsentRound(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """Step 5."""
        self._statements.consent(_silo(context), wire.ConsentRoundRequest.decode(request).consent)
        return wire.ConsentTaken().encode()

    def ReportApplied(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """Step 8."""
        self._statements.applied(_silo(context), wire.ReportAppliedRequest.decode(request).applied)
        return wire.AppliedTaken().encode()

    def SubmitModel(self, request_iterator: Iterator[Any], context: Context) -> Any:  # noqa: N802, ANN401
        """The opened model of a job that is over."""
        parts = (wire.ModelPart.decode(message) for message in request_iterator)
        first = next(parts, None)
        if first is None or first.model is None:
            raise ProtocolError("model", "does not begin with its name", "Send job and round first.")
        self._models.submit(_silo(context), first.model, (_values(part) for part in parts))
        return wire.ModelTaken().encode()

    def ExchangeCheckpoints(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """A silo's ledger checkpoint, what it witnessed, and what there is to witness."""
        asked = wire.ExchangeCheckpointsRequest.decode(request)
        return self._witnesses.exchange(_silo(context), asked).encode()

    def RenewCertificate(self, request: Any, context: Context) -> Any:  # noqa: N802, ANN401
        """The caller's next TLS certificate."""
        csr = wire.RenewCertificateRequest.decode(request).tls_csr_pem
        renewed = self._desk.renew(peer_of(context), csr, self._runner.clock())
        return wire.RenewedCertificate(tls_certificate_pem=renewed).encode()


def _parts(messages: Iterator[Any]) -> Iterator[wire.UpdatePart]:
    """Decoded parts; none is held while the next is waited for, for a chunk of every silo at once would be a lot."""
    for message in messages:
        part = wire.UpdatePart.decode(message)
        del message
        yield part
        del part


def _values(part: wire.ModelPart) -> bytes:
    if part.values is None:
        raise ProtocolError("model", "has two names", "Send one, then the coordinates.")
    return part.values


def _stage(upload: Upload, part: wire.UpdatePart) -> int:
    """Take a part; how many bytes it has."""
    for kind, attached in (("seeds", part.seeds), ("mails", part.mails)):
        if attached is not None:
            upload.add_attached(kind, attached)
            return len(attached)
    if part.residues is not None:
        upload.add_residues(part.residues)
        return len(part.residues)
    raise ProtocolError(
        "update", "has two headers", "Send one header, then seeds or mails, then residues.", step="submit"
    )


def _silo(context: Context) -> str:
    return peer_of(context).name
