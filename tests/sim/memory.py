"""Both programs in one process, without sockets: the real client and the real services, joined by a channel in memory.

Messages are serialised and parsed as on the wire; the caller is whom the channel belongs to. `Faults` loses requests
and replies, and keeps what was said.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from certs.names import PartyId
from privacy.errors import CloisterError, ConfigError, InternalError, Unavailable
from runtime.status import to_status


class PowerCut(BaseException):
    """The machine is off from here on: nothing after this line happens, what is on disk stays."""


@dataclass
class Faults:
    """What goes wrong: each (silo, method) in `lose_request` and `lose_reply` is lost once. `said` is what was sent."""

    lose_request: set[tuple[str, str]] = field(default_factory=set)
    lose_reply: set[tuple[str, str]] = field(default_factory=set)
    said: dict[tuple[str, str], list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def before(self, silo: str, method: str, first: bytes) -> None:
        self.said[silo, method].append(first)
        self._lose(self.lose_request, silo, method, "the request")

    def after(self, silo: str, method: str) -> None:
        self._lose(self.lose_reply, silo, method, "the reply")

    def _lose(self, losses: set[tuple[str, str]], silo: str, method: str, what: str) -> None:
        if (silo, method) in losses:
            losses.discard((silo, method))
            raise Unavailable(method, f"{what} was lost", "Run it again.")


class MemoryContext:
    """As much of grpc.ServicerContext as a service asks for."""

    def __init__(self, party: PartyId) -> None:
        self._party = party

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"peer_uri": [self._party.uri.encode()], "ssl_tls_version": [b"TLSv1.3"]}

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return callable(callback)

    def cancel(self) -> None:
        raise AssertionError("an upload in memory was cancelled")


class MemoryChannel:
    """As much of grpc.Channel as the generated stubs use. `serve` runs one call at the aggregator of the moment."""

    def __init__(self, serve: Callable[[Callable[[Any], Any]], Any], party: PartyId, faults: Faults) -> None:
        self._serve = serve
        self._party = party
        self._faults = faults

    def unary_unary(self, path: str, **_: Any) -> Callable[..., Any]:
        return lambda request, **_options: self._call(path, [request], stream=False)[0]

    def stream_unary(self, path: str, **_: Any) -> Callable[..., Any]:
        return lambda requests, **_options: self._call(path, list(requests), stream=True)[0]

    def unary_stream(self, path: str, **_: Any) -> Callable[..., Any]:
        return lambda request, **_options: iter(self._call(path, [request], stream=False))

    def close(self) -> None:
        pass

    def _call(self, path: str, sent: list[Any], *, stream: bool) -> list[Any]:
        method = path.rsplit("/", 1)[1]
        requests = [_copy(message) for message in sent]
        self._faults.before(self._party.name, method, requests[0].SerializeToString())

        def at_the_aggregator(service: Any) -> list[Any]:
            answer = getattr(service, method)(iter(requests) if stream else requests[0], MemoryContext(self._party))
            return [answer] if hasattr(answer, "SerializeToString") else list(answer)

        try:
            answers = self._serve(at_the_aggregator)
        except CloisterError as error:
            raise _as_the_client_sees_it(error) from error
        self._faults.after(self._party.name, method)
        return [_copy(message) for message in answers]


def _copy(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def _as_the_client_sees_it(error: CloisterError) -> CloisterError:
    if isinstance(error, ConfigError):
        return Unavailable("the other side", to_status(error).details, "Ask its operator.")
    if isinstance(error, InternalError):
        raise AssertionError("a bug of the aggregator") from error
    return error
