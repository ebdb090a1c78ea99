"""What a silo asks of the aggregator: the port the agent is written against, and that port over gRPC.

Every call has a deadline and raises errors of privacy.errors only. Calls that found the aggregator away are repeated a
few times; all of them are safe to repeat, since what is sent was stored before. Nothing here judges what comes back.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import grpc
from cloister import wire
from cloister.v1 import federation_pb2_grpc
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from privacy.errors import Unavailable
from privacy.statement import Signed
from runtime.status import peer_call

CONNECT_S = 20.0
CALL_S = 30.0
STREAM_S = 3600.0
FOLLOW_S = 6 * 3600.0  # then the stream is opened anew
ATTEMPTS = 4
WATCH_S = 0.3  # gRPC's thread that watches a channel looks 5 times a second whether to end, and dies of a closed one

T = TypeVar("T")


class AggregatorPort(Protocol):
    """The aggregator as a silo sees it. The simulator in tests/sim stands in for it."""

    def follow(self, software: str, opened: Callable[[], None]) -> Iterator[wire.Notice]:
        """Notices until the stream ends; `opened` is called once the aggregator is reached."""
        ...

    def get_job(self, job: bytes) -> wire.Job:
        """The job as it stands."""
        ...

    def fetch_artifact(self, job: bytes) -> Iterator[bytes]:
        """The starting adapter's file in parts."""
        ...

    def join_job(self, join: Signed) -> None:
        """Send a JobJoin."""
        ...

    def refuse_job(self, refusal: Signed) -> None:
        """Send a JobRefusal."""
        ...

    def deal_key(self, deal: Signed, mails: Mapping[str, bytes]) -> None:
        """Send a KeyDeal and its mails."""
        ...

    def get_round(self, job: bytes, round_number: int) -> wire.Round:
        """What the round has so far."""
        ...

    def join_round(self, join: Signed) -> None:
        """Step 0."""
        ...

    def submit_update(self, header: Signed, parts: Callable[[], "UpdateParts"]) -> None:
        """Step 1. `parts` gives the stored bytes, afresh for every attempt."""
        ...

    def fetch_mails(self, job: bytes, round_number: int) -> Iterator[wire.ShareMail]:
        """Steps 3 and 5: the share mails to this silo, of the members of the sum."""
        ...

    def send_release(self, release: Signed, body: bytes, mails: bytes) -> None:
        """Step 6."""
        ...

    def fetch_releases(self, job: bytes, round_number: int) -> Iterator[wire.ShownRelease]:
        """Step 7: what was released."""
        ...

    def withdraw_round(self, withdrawal: Signed) -> None:
        """Send a Withdrawal."""
        ...

    def send_fingerprint(self, fingerprint: Signed) -> None:
        """Step 3."""
        ...

    def fetch_sum(self, job: bytes, round_number: int) -> Iterator[wire.SumPart]:
        """Step 2: the members' seeds, then the sum's residue chunks."""
        ...

    def consent_round(self, consent: Signed) -> None:
        """Step 5."""
        ...

    def report_applied(self, applied: Signed) -> None:
        """Step 8."""
        ...

    def submit_model(self, job: bytes, round_number: int, parts: Callable[[], Iterable[bytes]]) -> None:
        """Send the global adapter after this round; `parts` gives its coordinates, afresh for every attempt."""
        ...

    def exchange_checkpoints(self, request: wire.ExchangeCheckpointsRequest) -> wire.ExchangedCheckpoints:
        """Show this ledger's newest checkpoint, and hear what others hold of it and what there is to witness."""
        ...

    def renew_certificate(self, tls_csr_pem: bytes) -> bytes:
        """The next TLS certificate, PEM."""
        ...


UpdateParts = Iterable[wire.UpdatePart]  # what follows the header, in order


class GrpcAggregator:
    """AggregatorPort over one channel at a time. `connect` opens a channel (runtime.channels)."""

    def __init__(self, connect: Callable[[], grpc.Channel]) -> None:
        self._connect = connect
        self._channel: grpc.Channel | None = None
        self._opening = threading.Lock()
        self._closed = False
        self._ready: Any = None  # what tells when the channel is connected
        self._following: Any = None

    def reconnect(self) -> None:
        """Use a new channel from now on, for instance with a renewed certificate."""
        with self._opening:
            old, self._channel = self._channel, None
        if old is not None:
            time.sleep(WATCH_S)
            old.close()

    def close(self) -> None:
        """End the stream of notices, whatever waits for a connection, and the channel; for good."""
        with self._opening:
            self._closed = True
            waiting, self._ready = (self._ready, self._following), None
        for call in waiting:
            if call is not None:
                call.cancel()
        self.reconnect()

    def follow(self, software: str, opened: Callable[[], None]) -> Iterator[wire.Notice]:
        """See AggregatorPort."""
        with peer_call("following the aggregator"):
            self._wait_until_ready()
            request = wire.FollowRequest(software=software).encode()
            self._following = self._stub().Follow(request, timeout=FOLLOW_S)
            opened()
            for notice in self._following:
                yield wire.Notice.decode(notice)

    def get_job(self, job: bytes) -> wire.Job:
        """See AggregatorPort."""
        return wire.Job.decode(self._call("asking for the job", "GetJob", wire.GetJobRequest(job=job)))

    def fetch_artifact(self, job: bytes) -> Iterator[bytes]:
        """See AggregatorPort."""
        request = wire.FetchArtifactRequest(job=job).encode()
        with peer_call("fetching the starting adapter"):
            for part in self._stub().FetchArtifact(request, timeout=STREAM_S):
                yield wire.ArtifactChunk.decode(part).chunk

    def join_job(self, join: Signed) -> None:
        """See AggregatorPort."""
        self._call("joining the job", "JoinJob", wire.JoinJobRequest(join=join))

    def refuse_job(self, refusal: Signed) -> None:
        """See AggregatorPort."""
        self._call("refusing the job", "RefuseJob", wire.RefuseJobRequest(refusal=refusal))

    def deal_key(self, deal: Signed, mails: Mapping[str, bytes]) -> None:
        """See AggregatorPort."""
        sealed = tuple(wire.Mail(to=to, sealed=mail) for to, mail in sorted(mails.items()))
        self._call("dealing the cohort's key", "DealKey", wire.DealKeyRequest(deal=deal, mails=sealed))

    def get_round(self, job: bytes, round_number: int) -> wire.Round:
        """See AggregatorPort."""
        request = wire.GetRoundRequest(job=job, round=round_number)
        return wire.Round.decode(self._call("asking for the round", "GetRound", request))

    def join_round(self, join: Signed) -> None:
        """See AggregatorPort."""
        self._call("joining the round", "JoinRound", wire.JoinRoundRequest(join=join))

    def submit_update(self, header: Signed, parts: Callable[[], UpdateParts]) -> None:
        """See AggregatorPort."""

        def requests() -> Iterator[Any]:
            yield wire.UpdatePart(header=header).encode()
            for part in parts():
                yield part.encode()
                del part  # while gRPC waits for the aggregator to read, one copy is enough

        def send() -> None:
            with peer_call("sending the update"):
                self._stub().SubmitUpdate(requests(), timeout=STREAM_S)

        _patiently(send)

    def withdraw_round(self, withdrawal: Signed) -> None:
        """See AggregatorPort."""
        self._call("withdrawing", "WithdrawRound", wire.WithdrawRoundRequest(withdrawal=withdrawal))

    def send_fingerprint(self, fingerprint: Signed) -> None:
        """See AggregatorPort."""
        request = wire.SendFingerprintRequest(fingerprint=fingerprint)
        self._call("sending the fingerprint", "SendFingerprint", request)

    def fetch_sum(self, job: bytes, round_number: int) -> Iterator[wire.SumPart]:
        """See AggregatorPort."""
        request = wire.FetchSumRequest(job=job, round=round_number).encode()
        with peer_call("fetching the sum"):
            for part in self._stub().FetchSum(request, timeout=STREAM_S):
                yield wire.SumPart.decode(part)

    def fetch_mails(self, job: bytes, round_number: int) -> Iterator[wire.ShareMail]:
        """See AggregatorPort."""
        request = wire.FetchMailsRequest(job=job, round=round_number).encode()
        with peer_call("fetching share mails"):
            for mail in self._stub().FetchMails(request, timeout=STREAM_S):
                yield wire.ShareMail.decode(mail)

    def send_release(self, release: Signed, body: bytes, mails: bytes) -> None:
        """See AggregatorPort."""
        request = wire.SendReleaseRequest(release=release, body=body, mails=mails)
        self._call("sending the release", "SendRelease", request)

    def fetch_releases(self, job: bytes, round_number: int) -> Iterator[wire.ShownRelease]:
        """See AggregatorPort."""
        request = wire.FetchReleasesRequest(job=job, round=round_number).encode()
        with peer_call("fetching releases"):
            for release in self._stub().FetchReleases(request, timeout=STREAM_S):
                yield wire.ShownRelease.decode(release)

    def consent_round(self, consent: Signed) -> None:
        """See AggregatorPort."""
        self._call("consenting", "ConsentRound", wire.ConsentRoundRequest(consent=consent))

    def report_applied(self, applied: Signed) -> None:
        """See AggregatorPort."""
        self._call("reporting the adapter", "ReportApplied", wire.ReportAppliedRequest(applied=applied))

    def submit_model(self, job: bytes, round_number: int, parts: Callable[[], Iterable[bytes]]) -> None:
        """See AggregatorPort."""

        def requests() -> Iterator[Any]:
            yield wire.ModelPart(model=wire.ModelName(job=job, round=round_number)).encode()
            for part in parts():
                yield wire.ModelPart(values=part).encode()

        with peer_call("sending the model"):
            self._stub().SubmitModel(requests(), timeout=STREAM_S)

    def exchange_checkpoints(self, request: wire.ExchangeCheckpointsRequest) -> wire.ExchangedCheckpoints:
        """See AggregatorPort."""
        return wire.ExchangedCheckpoints.decode(self._call("exchanging checkpoints", "ExchangeCheckpoints", request))

    def renew_certificate(self, tls_csr_pem: bytes) -> bytes:
        """See AggregatorPort."""
        request = wire.RenewCertificateRequest(tls_csr_pem=tls_csr_pem)
        answer = self._call("renewing the certificate", "RenewCertificate", request)
        return wire.RenewedCertificate.decode(answer).tls_certificate_pem

    def _wait_until_ready(self) -> None:
        channel = self._open()
        with self._opening:
            self._check_open()
            ready = self._ready = grpc.channel_ready_future(channel)
        try:
            ready.result(timeout=CONNECT_S)
        except grpc.FutureTimeoutError:
            self._forget(ready)
            self._say_why(channel)
        except grpc.FutureCancelledError:
            self._check_open()
        else:
            self._forget(ready)

    def _forget(self, ready: Any) -> None:  # noqa: ANN401 - grpc.Future, which must not be cancelled twice
        with self._opening:
            if self._ready is ready:
                self._ready = None
                ready.cancel()

    def _open(self) -> grpc.Channel:
        with self._opening:
            self._check_open()
            if self._channel is None:
                self._channel = self._connect()
            return self._channel

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the aggregator", "the connection was closed on this side", "Start the agent again.")

    def _stub(self) -> Any:  # noqa: ANN401 - the generated stub, which types messages and not ours
        return federation_pb2_grpc.FederationServiceStub(self._open())

    def _call(self, what: str, method: str, request: wire.WireMessage) -> Any:  # noqa: ANN401 - the method's answer
        def send() -> Any:  # noqa: ANN401
            with peer_call(what):
                return getattr(self._stub(), method)(request.encode(), timeout=CALL_S)

        return _patiently(send)

    def _say_why(self, channel: grpc.Channel) -> None:
        """A channel that does not get ready does not say why; a call that does not wait for it does."""
        stub = federation_pb2_grpc.FederationServiceStub(channel)
        request = wire.FollowRequest(software="cloister").encode()
        for _ in stub.Follow(request, timeout=CALL_S, wait_for_ready=False):
            return


def _patiently(send: Callable[[], T]) -> T:
    """Repeat what found the other side away. Raises what the last attempt raised."""
    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=2.0),
        reraise=True,
    )
    return retrying(send)
