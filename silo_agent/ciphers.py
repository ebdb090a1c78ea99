"""What the two suites do differently at a silo with an update: seal it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import structlog

from privacy.ckks import fingerprint, multikey
from privacy.ckks.group import GroupKey, open_sum, seal
from privacy.ckks.layout import Layout
from privacy.ckks.layouts import UpdateLayout
from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.ckks.multikey_params import GRID_BITS, LEAST_PARTICIPANTS, MultikeyParams
from privacy.ckks.params import GroupParams
from privacy.ckks.shares import Opened
from privacy.errors import VerificationError
from privacy.keyed import RoundRoll
from privacy.plan import RoundContext
from silo_agent.home import Home
from silo_agent.keyed_rounds import KeyedRounds, Masking
from silo_agent.membership import Membership
from silo_agent.outbox import SealedDigests
from silo_agent.status import Timing
from silo_agent.sums import FetchedSum
from silo_agent.vault import Secret

LOG = structlog.get_logger("silo.round")

GridBlocks = Iterator[npt.NDArray[np.uint16]]
Sums = Iterator[npt.NDArray[np.uint32]]


@dataclass(frozen=True)
class Sealed:
    """An update as it is sealed: parts for the outbox, and what its header says once they are there, by field."""

    parts: Iterable[tuple[bytes, bytes]]
    header: Callable[[SealedDigests], dict[str, str]]


class GroupCipher:
    """`ckks-group`: under the cohort's one key."""

    def __init__(self, home: Home, membership: Membership, layout: Layout) -> None:
        self._home = home
        self._member = membership
        self._layout = layout

    def begin(self, ctx: RoundContext) -> None:
        """Nothing is made ahead."""

    def drop(self, number: int) -> None:
        """Nothing was."""

    def seal(self, ctx: RoundContext, blocks: GridBlocks, timing: Timing) -> Sealed:  # noqa: ARG002 - the other's
        """Encrypted block by block."""
        return Sealed(seal(self._key, self._params(ctx), blocks), self._header)

    def _header(self, digests: SealedDigests) -> dict[str, str]:
        return {
            "key_commitment": self._member.key_commitment.hex(),
            "residues_root": digests.residues_root.hex(),
            "seeds_sha256": digests.attachment_sha256.hex(),
        }

    def open(self, ctx: RoundContext, fetched: FetchedSum, members: int) -> Sums:
        """The sum's values. Raises as `group.open_sum`."""
        return open_sum(self._key, self._params(ctx), self._layout, fetched.chunks(), fetched.seeds(members))

    def _params(self, ctx: RoundContext) -> GroupParams:
        return GroupParams(self._member.plan.grid.bits, len(ctx.participants))

    @cached_property
    def _key(self) -> GroupKey:
        """The cohort's key; loading it into SEAL costs as much as sealing 80,000 values, so once a job."""
        return GroupKey.from_bytes(self._home.vault.get(self._member.job, Secret.COHORT_KEY))


class KeyedCipher:
    """`ckks-multikey`: under a key that is made while training runs, and used up by one update."""

    def __init__(self, home: Home, membership: Membership, layout: MultikeyLayout) -> None:
        self._layout = layout
        self.rounds = KeyedRounds(home, membership, layout)
        self._rolls: dict[int, RoundRoll] = {}
        multikey.warm_up(layout.params)

    def expect(self, number: int, roll: RoundRoll) -> None:
        """The round's updates are collected: shares go to who is in this roll."""
        self._rolls = {number: roll}

    def begin(self, ctx: RoundContext) -> None:
        """Begin with the key, its shares and its pads."""
        self.rounds.begin(ctx, self._rolls[ctx.round_number])

    def drop(self, number: int) -> None:
        """What was made for an update is not wanted any more."""
        self.rounds.drop(number)

    def seal(self, ctx: RoundContext, blocks: GridBlocks, timing: Timing) -> Sealed:
        """Hidden under the pads, block by block."""

        def note(masking: Masking) -> None:
            timing.pad_ns = masking.spent_ns

        parts, mails = self.rounds.seal(ctx.round_number, blocks, note)
        roll = self._rolls[ctx.round_number].digest.hex()
        return Sealed(
            parts, lambda digests: {"roll": roll, "residues_root": digests.residues_root.hex(), "mails": mails}
        )

    def open(self, ctx: RoundContext, fetched: FetchedSum, members: int, keys: Iterable[Opened]) -> Sums:
        """The sum's values, by that of the possible sums of its keys which opens its first block.

        Raises as `multikey.open_sum`, for the last of them.
        """
        refusal: VerificationError | None = None
        for key in keys:
            try:
                sums = multikey.open_sum(key.total, ctx.digest(), self._layout, members, fetched.chunks())
                first = next(sums)
            except VerificationError as error:
                refusal = error
                continue
            if key.wrong:
                names = [ctx.participants[point - 1] for point in key.wrong]
                LOG.warning("sums of shares do not fit the others", round=ctx.round_number, of=names)
            yield first
            yield from sums
            return
        if refusal is not None:
            raise refusal


Cipher = GroupCipher | KeyedCipher


def cipher_of(home: Home, membership: Membership, layout: UpdateLayout) -> Cipher:
    """The plan's suite at this silo."""
    if isinstance(layout, MultikeyLayout):
        return KeyedCipher(home, membership, layout)
    return GroupCipher(home, membership, layout)


def warm_up() -> None:
    """Compile every kernel of either suite or load it, so that no round waits for it: half a second, once a process.

    The first time on a machine it takes five seconds.
    """
    params = MultikeyParams("small", LEAST_PARTICIPANTS, GRID_BITS[-1])
    multikey.warm_up(params)
    for layout in (Layout(1), MultikeyLayout(1, params)):
        fingerprint.warm_up(layout)
