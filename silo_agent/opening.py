"""Opening a certified sum, and what this silo releases so that it opens. Steps 6 and 7 of protocol.md."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from cloister.wire import RoundPhase

from privacy.errors import InternalError, Unavailable, VerificationError
from privacy.plan import RoundContext
from privacy.transcript import CheckedTranscript
from silo_agent.ciphers import KeyedCipher
from silo_agent.observer import fetch_sum, reject
from silo_agent.round_events import Event, NothingToRelease, ReleaseSealed
from silo_agent.round_log import context_of
from silo_agent.round_states import Certified, State
from silo_agent.round_tools import RoundTools
from silo_agent.round_work import Opener
from silo_agent.status import Timing
from silo_agent.sums import FetchedSum, Rejected


class Opening:
    """Opens the sums of one job."""

    def __init__(self, tools: RoundTools) -> None:
        self._tools = tools

    def open(self, number: int, state: State, timing: Timing) -> Event:
        """Bring the certified sum and open it. Raises Unavailable while what was released is not enough."""
        ctx = context_of(state)
        checked = self._tools.log.certified(number, ctx)
        try:
            self._tools.work.fetched(number).bring(checked, fetch_sum(self._tools, number))
            opener = self._opener(ctx, checked)
        except Rejected as error:
            return reject(self._tools, number, error)
        return self._tools.work.open(ctx, checked.commit, opener, timing)

    def _opener(self, ctx: RoundContext, checked: CheckedTranscript) -> Opener:
        """How the sum is opened; with one-time keys, by what was released.

        While that is not enough, or some of it is wrong, more may come: then it, or the opener, raises Unavailable; if
        none can come any more, Rejected.
        """
        cipher, members = self._tools.work.cipher, len(checked.commit.members)
        if not isinstance(cipher, KeyedCipher):
            return lambda fetched: cipher.open(ctx, fetched, members)
        number = ctx.round_number
        shown = self._tools.port.fetch_releases(self._tools.member.job, number)
        releases = cipher.rounds.checked(ctx, checked.digest, shown)
        with self._patient(ctx, len(releases)):
            keys = cipher.rounds.rebuild(ctx, checked.digest, self._tools.log.joins(number), members, releases)

        def opened(fetched: FetchedSum) -> Iterator[npt.NDArray[np.uint32]]:
            with self._patient(ctx, len(releases)):
                yield from cipher.open(ctx, fetched, members, keys)

        return opened

    @contextmanager
    def _patient(self, ctx: RoundContext, released: int) -> Iterator[None]:
        """What does not open yet may open with more releases, while there can be more."""
        try:
            yield
        except VerificationError as error:
            view = self._tools.port.get_round(self._tools.member.job, ctx.round_number)
            if released == len(ctx.participants) or view.phase is RoundPhase.ABORTED:
                raise Rejected.of(error) from error
            why = f"does not open yet: {error.what} {error.why}"
            raise Unavailable(
                f"sum of round {ctx.round_number}", why, "It is tried again with more releases."
            ) from error

    def seal_release(self, number: int, state: State) -> ReleaseSealed | NothingToRelease:
        """Step 6: only on a certificate that was checked and stored."""
        if self._tools.keyed is None or not isinstance(state, Certified):
            raise InternalError(f"round {number}", "has nothing to release", "Report this; nothing was sent.")
        return self._tools.keyed.seal_release(state.ctx, state.transcript, self._tools.log.joins(number))
