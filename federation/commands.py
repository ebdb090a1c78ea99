"""`cloister`'s public commands, run to their end from this process: the same command line, without a new interpreter.

What they print comes back as text; a complaint of theirs becomes an error that quotes it.
"""

import io
import os
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from privacy.errors import (
    CloisterError,
    ConfigError,
    ExitCode,
    InternalError,
    ProtocolError,
    Refused,
    Unavailable,
    VerificationError,
)
from runtime.console import INTERRUPTED, run

QUOTED_LINES = 12
FAMILIES: dict[int, type[CloisterError]] = {
    family.exit_code: family for family in (ConfigError, ProtocolError, Refused, VerificationError, Unavailable)
}
_ONE_AT_A_TIME = threading.Lock()  # a process has one stdout to redirect


def run_command(*arguments: str) -> str:
    """Run `cloister ARGUMENTS` and return what it printed. Raises what `failure` makes of its complaint."""
    from federation.cli import Root

    out, complaint = io.StringIO(), io.StringIO()
    with _ONE_AT_A_TIME, redirect_stdout(out), redirect_stderr(complaint):
        code = run(Root(), arguments)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        said = (complaint.getvalue() or out.getvalue()).strip().splitlines()[-QUOTED_LINES:]
        why = f"ended with exit code {code}:{os.linesep}{os.linesep.join(said)}{os.linesep}"
        raise failure(code, f"cloister {named(arguments)}", why, "Mend that and start again.")
    return out.getvalue()


def failure(code: int, what: str, why: str, next_step: str) -> CloisterError:
    """An error of the family that an exit code stands for (docs/reference/exit-codes.md), for a program that ended so.

    A bug, and a command line that we composed and that was wrong, are ours. A program that a signal ended (a negative
    code), or that ended well though it should run, may go through another time.
    """
    ours = code in (ExitCode.BUG, ExitCode.USAGE)
    return (InternalError if ours else FAMILIES.get(code, Unavailable))(what, why, next_step)


def named(arguments: Sequence[str]) -> str:
    """The command's words without its options, which may hold a token."""
    words = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        words.append(argument)
    return " ".join(words)
