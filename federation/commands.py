"""`cloister`'s public commands, run to their end from this process: the same command line, without a new interpreter.

What they print comes back as text; a complaint of theirs becomes an error that quotes it.
"""

import io
import os
import threading
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from privacy.errors import Unavailable
from runtime.console import run

QUOTED_LINES = 12
_ONE_AT_A_TIME = threading.Lock()  # a process has one stdout to redirect


def run_command(*arguments: str) -> str:
    """Run `cloister ARGUMENTS` and return what it printed. Raises Unavailable with its complaint."""
    from federation.cli import Root

    out, complaint = io.StringIO(), io.StringIO()
    with _ONE_AT_A_TIME, redirect_stdout(out), redirect_stderr(complaint):
        code = run(Root(), arguments)
    if code:
        said = (complaint.getvalue() or out.getvalue()).strip().splitlines()[-QUOTED_LINES:]
        why = f"ended with exit code {code}:{os.linesep}{os.linesep.join(said)}{os.linesep}"
        raise Unavailable(f"cloister {named(arguments)}", why, "Mend that and start again.")
    return out.getvalue()


def named(arguments: Sequence[str]) -> str:
    """The command's words without its options, which may hold a token."""
    words = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        words.append(argument)
    return " ".join(words)
