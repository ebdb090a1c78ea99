"""What the rounds of one job are run with at this silo."""

from dataclasses import dataclass

from silo_agent.ciphers import KeyedCipher
from silo_agent.client import AggregatorPort
from silo_agent.home import Home
from silo_agent.keyed_rounds import KeyedRounds
from silo_agent.membership import Membership
from silo_agent.round_log import RoundLog
from silo_agent.round_work import RoundWork
from silo_agent.status import JobBoard


@dataclass(frozen=True)
class RoundTools:
    """Where rounds are kept, where the aggregator is, and what trains, seals and opens."""

    home: Home
    port: AggregatorPort
    member: Membership
    board: JobBoard
    work: RoundWork
    log: RoundLog

    @property
    def keyed(self) -> KeyedRounds | None:
        """The one-time keys of `ckks-multikey`; None in the other suite."""
        cipher = self.work.cipher
        return cipher.rounds if isinstance(cipher, KeyedCipher) else None
