"""Logs: lines for people at a terminal, JSON elsewhere, and only fields whose names are on a list.

A log is read by people who may not see data. So the list is of names that can hold none; a field that is not on it is
dropped and its name, not its value, is put under `dropped`. Event texts are constants, never formatted with values.
"""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from privacy.errors import CloisterError
from runtime.console import kind_of, place_of, printable

FIELDS = frozenset(
    {
        *("event", "level", "timestamp", "exception"),
        *("party", "peer", "role", "federation", "address", "port", "method", "status", "pid", "version"),
        *("job", "plan", "round", "attempt", "state", "step", "action", "suite", "participants", "decision"),
        *("file", "folder", "digest", "fingerprint", "serial", "expires_utc", "deadline_utc", "at_utc"),
        *("error", "why", "what", "next_step", "seconds", "retry_s", "bytes", "chunks", "chunk", "tree_size"),
        *("dataset", "model", "entries", "signal"),
    }
)
_SCALAR = str | int | bool | None
_REALS = frozenset({"seconds", "retry_s"})
_LONGEST = 400


def allowed_only(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001 - structlog's shape
    """Drop every field whose name is not in FIELDS, and every value that is not a short scalar."""
    kept = {name: _short(value) for name, value in event.items() if name in FIELDS and _is_scalar(name, value)}
    dropped = sorted(name for name in event if name not in kept)
    return kept | ({"dropped": dropped} if dropped else {})


def readable(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001 - structlog's shape
    """For a terminal: what others wrote moves no cursor."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}


def error_without_data(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """Replace `exc_info` by the exception's class and place; its text only if it is one of our own errors."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, CloisterError):
        event.update(error=kind_of(error), what=error.what, why=error.why, next_step=error.next_step)
    elif isinstance(error, BaseException):
        event.update(error=type(error).__name__, exception=place_of(error))
    return event


def configure_logs(level: str = "info", stream: TextIO | None = None, *, as_json: bool = False) -> None:
    """Set up structlog for this process; to stderr unless `stream` is given. JSON unless that is a terminal."""
    out = sys.stderr if stream is None else stream
    renderers: list[Processor] = (
        [readable, structlog.dev.ConsoleRenderer(pad_event_to=0)]
        if out.isatty() and not as_json
        else [structlog.processors.JSONRenderer(sort_keys=True)]
    )
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it would print exceptions with their text
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            error_without_data,
            allowed_only,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def _is_scalar(name: str, value: object) -> bool:
    return isinstance(value, _SCALAR) or (isinstance(value, float) and name in _REALS)


def _short(value: object) -> object:
    return value if not isinstance(value, str) or len(value) <= _LONGEST else value[:_LONGEST] + "..."
