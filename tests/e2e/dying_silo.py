"""`silo run` in a process that kills itself once: python dying_silo.py STATE POINT.

POINT is a durable write or an action of a round, as RoundRunner names it. SIGKILL: nothing is flushed, closed or told.
"""

import functools
import os
import signal
import sys
from pathlib import Path

from silo_agent import agent, daemon
from silo_agent.participation import Participation


def main() -> None:
    state, point = Path(sys.argv[1]), sys.argv[2]

    def durably(what: str) -> None:
        if what == point:
            print(f"killed at {point}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    agent.Participation = functools.partial(Participation, durably=durably)  # type: ignore[misc, assignment]
    daemon.run_until_signalled(state)


if __name__ == "__main__":
    main()
