"""What stands before every RPC of a server: TLS 1.3, a certificate that is good now, a role that may call it.

grpcio cannot set a least TLS version, and lets a connection outlive its certificate, so both are checked again for
every call (docs/reference/certificates.md).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias

import grpc
import structlog

from certs.names import PartyId, Role
from certs.verify import CertificateFlaw, Kind, Leaf, load_ca, read_leaf
from privacy.errors import CloisterError, InternalError, ProtocolError, Refused, Unavailable
from runtime.status import NotAdmitted, to_status

Guard = Callable[[grpc.ServicerContext, str], AbstractContextManager[None]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the type stubs only
Found: TypeAlias = "Handler | None"
_TLS_1_3 = b"TLSv1.3"
_log = structlog.get_logger("runtime.interceptors")


class GuardInterceptor(grpc.ServerInterceptor):
    """Runs every RPC, of all four kinds and to the end of its stream, inside `guard(context, method)`."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Found],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Found:
        """grpc's hook."""
        handler = continuation(handler_call_details)
        return None if handler is None else _guarded(handler, self._guard, handler_call_details.method)


class StatusInterceptor(GuardInterceptor):
    """Turns errors into statuses. The first of a server's interceptors, so that it sees the others' refusals."""

    def __init__(self) -> None:
        super().__init__(_statuses)


class Tls13Interceptor(GuardInterceptor):
    """Refuses what did not come over TLS 1.3. For the enrolment port, where callers have no certificate yet."""

    def __init__(self) -> None:
        super().__init__(_only_tls13)


class PeerInterceptor(GuardInterceptor):
    """Refuses a caller whose certificate is expired, revoked, of another federation (all NotAdmitted), or whose role
    may not call (Refused).

    `roles` maps full method names ("/cloister.v1.FederationService/JoinRound") to the roles that may call them; a
    method that is not in it is refused to everybody. `revoked` and `clock` are asked for every call.
    """

    def __init__(
        self,
        ca_pem: bytes,
        roles: Mapping[str, frozenset[Role]],
        revoked: Callable[[], frozenset[int]],
        clock: Callable[[], datetime],
    ) -> None:
        super().__init__(self._admit)
        self._roles = dict(roles)
        self._revoked = revoked
        self._clock = clock
        ca = load_ca(ca_pem)

        @lru_cache(maxsize=1024)
        def read(pem: bytes) -> Leaf:
            return read_leaf(pem, ca, Kind.TLS)

        self._read = read

    def check_caller(self, context: grpc.ServicerContext) -> PartyId:
        """Who calls, if it may be here now: asked again in the middle of calls that last. Raises NotAdmitted."""
        _require_tls13(context)
        return self._checked_party(context)

    @contextmanager
    def _admit(self, context: grpc.ServicerContext, method: str) -> Iterator[None]:
        party = self.check_caller(context)
        if party.role not in self._roles.get(method, frozenset()):
            raise Refused(
                f"call of {method} by {party.uri}",
                f"the role {party.role} may not make it",
                "Use the command, and the folder, of the role that may.",
            )
        yield

    def _checked_party(self, context: grpc.ServicerContext) -> PartyId:
        pems = _shown(context, "x509_pem_cert")
        if len(pems) != 1:
            raise NotAdmitted("caller", "showed no certificate", "Enrol in this federation.")
        try:
            leaf = self._read(pems[0])
            leaf.check_time(self._clock())
        except CertificateFlaw as error:
            raise NotAdmitted(
                "the caller's certificate", error.why, "Renew it, or compare the clocks of the two machines."
            ) from error
        if leaf.serial in self._revoked():
            raise NotAdmitted(f"certificate of {leaf.party.uri}", "has been revoked", "Ask the coordinator why.")
        if leaf.party != peer_of(context):
            raise InternalError("the caller's name", "differs between certificate and TLS", "Report this.")
        return leaf.party


class ShareInterceptor(GuardInterceptor):
    """Lets a party have at most `calls` calls open at once: none takes every thread. Stands after PeerInterceptor."""

    def __init__(self, calls: int) -> None:
        super().__init__(self._count)
        self._calls = calls
        self._lock = threading.Lock()
        self._open: Counter[PartyId] = Counter()

    @contextmanager
    def _count(self, context: grpc.ServicerContext, method: str) -> Iterator[None]:
        party = peer_of(context)
        with self._lock:
            full = self._open[party] >= self._calls
            self._open[party] += not full
        if full:
            why = f"{party.uri} has {self._calls} calls open already"
            raise Unavailable(f"call of {method}", why, "Let one of them end, then run it again.")
        try:
            yield
        finally:
            with self._lock:
                self._open[party] -= 1


def peer_of(context: grpc.ServicerContext) -> PartyId:
    """Who calls, by the URI in its TLS certificate: the only source of a caller's identity. Raises NotAdmitted."""
    uris = _shown(context, "peer_uri")
    if len(uris) != 1:
        raise NotAdmitted("caller", "showed no certificate that names one party", "Enrol in this federation.")
    return PartyId.parse(uris[0].decode("ascii", "replace"))


def _shown(context: grpc.ServicerContext, key: str) -> list[bytes]:
    found: Any = context.auth_context().get(key, ())  # bytes; the type stubs say int
    return list(found)


def _require_tls13(context: grpc.ServicerContext) -> None:
    if _shown(context, "ssl_tls_version") != [_TLS_1_3]:
        why = "Let no proxy or old library stand between the two sides."
        raise NotAdmitted("connection", "is not over TLS 1.3", why)


@contextmanager
def _only_tls13(context: grpc.ServicerContext, method: str) -> Iterator[None]:  # noqa: ARG001 - a Guard
    _require_tls13(context)
    yield


@contextmanager
def _statuses(context: grpc.ServicerContext, method: str) -> Iterator[None]:
    try:
        yield
    except CloisterError as error:
        _log.warning("call refused", method=method, exc_info=error)
        _abort(context, error)
    except Exception as error:  # a bug in a servicer, unless the servicer itself aborted
        if _ended(context):
            _log.info("call ended", method=method, error=type(error).__name__)
            raise
        _log.error("call failed", method=method, exc_info=error)
        _abort(context, InternalError("the call", "met a bug", "See the log."))


def _ended(context: Any) -> bool:  # noqa: ANN401 - the type stubs do not know ServicerContext.code
    return context.code() is not None or not context.is_active()


def _abort(context: grpc.ServicerContext, error: CloisterError) -> None:
    status = to_status(error)
    context.set_trailing_metadata(status.metadata)
    context.abort(status.code, status.details)


def _guarded(handler: Handler, guard: Guard, method: str) -> Handler:
    """A single request is read inside the guard, as a stream of them is: who sends none is checked and counted too."""
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.stream_unary_rpc_method_handler(_one(_of_first(handler.unary_unary), guard, method), **codec)
        case True, False:
            return grpc.stream_unary_rpc_method_handler(_one(handler.stream_unary, guard, method), **codec)
        case False, True:
            return grpc.stream_stream_rpc_method_handler(_many(_of_first(handler.unary_stream), guard, method), **codec)
        case _:
            return grpc.stream_stream_rpc_method_handler(_many(handler.stream_stream, guard, method), **codec)


def _of_first(behaviour: Any) -> Callable[[Iterator[Any], grpc.ServicerContext], Any]:  # noqa: ANN401
    def with_first(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        for request in requests:
            return behaviour(request, context)
        raise ProtocolError("call", "carries no message", "Send one.")

    return with_first


def _one(behaviour: Any, guard: Guard, method: str) -> Callable[[Any, grpc.ServicerContext], Any]:  # noqa: ANN401
    def guarded(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - a message or an iterator
        with guard(context, method):
            return behaviour(request, context)

    return guarded


def _many(behaviour: Any, guard: Guard, method: str) -> Callable[[Any, grpc.ServicerContext], Iterable[Any]]:  # noqa: ANN401
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401
        with guard(context, method):
            yield from behaviour(request, context)

    return guarded
