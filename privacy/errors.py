"""The four families of error. Each blames one party and carries what failed, why, and what to do next.

Style after h11's LocalProtocolError and RemoteProtocolError: whoever catches one knows whose move is next.
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of every `cloister` command (docs/reference/exit-codes.md)."""

    OK = 0
    BUG = 1
    USAGE = 2
    CONFIG = 3
    PROTOCOL = 4
    REFUSED = 5
    VERIFICATION = 6
    UNAVAILABLE = 7


class CloisterError(Exception):
    """What failed, why, and the next step for whoever reads it. Never carries a secret or a value of a record."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(f"{what}: {why}. {next_step}")
        self.what = what
        self.why = why
        self.next_step = next_step


class InternalError(CloisterError):
    """Our own bug: an invariant does not hold. Nothing the operator does mends it."""


class ConfigError(CloisterError):
    """The operator's: a file, an option, a certificate, a dataset or the machine is not as it must be."""

    exit_code = ExitCode.CONFIG


class ProtocolError(CloisterError):
    """The peer's: a message breaks the protocol. Names the sender, the step and the clause where they are known."""

    exit_code = ExitCode.PROTOCOL

    def __init__(self, what: str, why: str, next_step: str, *, sender: str = "", step: str = "") -> None:
        super().__init__(what, why, next_step)
        self.sender = sender
        self.step = step


class Refused(CloisterError):  # noqa: N818 - a refusal is a decision, not a failure
    """The policy's: a budget, an allow-list or a steward says no. Nothing was spent."""

    exit_code = ExitCode.REFUSED


class VerificationError(CloisterError):
    """Evidence does not hold: a signature, a proof, a digest or a replayed figure is wrong."""

    exit_code = ExitCode.VERIFICATION


class Unavailable(CloisterError):  # noqa: N818 - a state of the world, not a fault
    """The other side cannot be reached now; the same call may go through later."""

    exit_code = ExitCode.UNAVAILABLE
