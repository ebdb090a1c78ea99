"""A federation in memory whose aggregator lies: real silos, the real aggregator, and a hand on every answer.

The attacker is the aggregator's operator. It has that program's identity key and everything on its disk, and answers
each silo what it likes; it has no silo's key. `lies[method]` stands in the place of one method of the service.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cloister import wire
from cloister.wire import RoundPhase

from aggregator.accumulate import update_paths
from aggregator.blobs import Blobs
from aggregator.store import Kind
from certs.wallet import Wallet
from privacy.ckks.layout import Layout, chunk_leaf, chunks_root
from privacy.envelope import KeyedUpdateHeader, UpdateHeader, header_digest
from privacy.errors import CloisterError
from privacy.keyed import KeyedRoundJoin, Release
from privacy.plan import JobPlan, RoundContext
from privacy.roll import JobJoin, KeyDeal
from privacy.statement import Signed, Statement, message_to_sign, read
from privacy.transcript import (
    Applied,
    CommitMember,
    Consent,
    Fingerprint,
    RoundCommit,
    RoundJoin,
    commit_digest,
    transcript_digest,
)
from runtime.interceptors import peer_of
from tests.cohort import SealedUpdate, add_updates
from tests.sim.world import VALUES, World

NAMES = ("east", "north", "west")
LAYOUT = Layout(VALUES)
Honest = Callable[[Any], Any]
Lie = Callable[[str, Any, Honest], Any]  # who asks, what, and what the aggregator would answer

CALLS: dict[type[Statement], tuple[str, type[wire.WireMessage], str]] = {
    JobJoin: ("JoinJob", wire.JoinJobRequest, "join"),
    KeyDeal: ("DealKey", wire.DealKeyRequest, "deal"),
    RoundJoin: ("JoinRound", wire.JoinRoundRequest, "join"),
    UpdateHeader: ("SubmitUpdate", wire.UpdatePart, "header"),
    Fingerprint: ("SendFingerprint", wire.SendFingerprintRequest, "fingerprint"),
    Consent: ("ConsentRound", wire.ConsentRoundRequest, "consent"),
    Applied: ("ReportApplied", wire.ReportAppliedRequest, "applied"),
    KeyedRoundJoin: ("JoinRound", wire.JoinRoundRequest, "join"),
    KeyedUpdateHeader: ("SubmitUpdate", wire.UpdatePart, "header"),
    Release: ("SendRelease", wire.SendReleaseRequest, "release"),
}


class _Liar:
    """The aggregator's service with some of its methods replaced."""

    def __init__(self, service: Any, lies: Mapping[str, Lie]) -> None:
        self._service = service
        self._lies = lies

    def __getattr__(self, method: str) -> Any:
        honest, lie = getattr(self._service, method), self._lies.get(method)
        if lie is None:
            return honest
        return lambda request, context: lie(peer_of(context).name, request, lambda asked: honest(asked, context))


class LyingWorld(World):
    """`complaints` holds the last error of each silo's agent, as its operator sees it."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.lies: dict[str, Lie] = {}
        self.complaints: dict[str, CloisterError] = {}
        super().__init__(folder, *names)

    def serve(self, call: Callable[[Any], Any]) -> Any:
        return super().serve(lambda service: call(_Liar(service, self.lies)))

    def complained(self, name: str, error: CloisterError) -> None:
        self.complaints[name] = error

    def copy_to(self, folder: Path) -> "LyingWorld":
        """The same moment elsewhere: every program is started again from its disk."""
        world = super().copy_to(folder)
        assert isinstance(world, LyingWorld)
        world.now, world.job = self.now, self.job
        world.faults.said.update({call: list(sent) for call, sent in self.faults.said.items()})
        for silo in world.silos.values() if world.job else ():
            silo.boot()
        return world

    # -- lies ----------------------------------------------------------------------------------------------------------

    def show_job(self, change: Callable[[str, wire.Job], wire.Job]) -> None:
        """Each silo is shown the job so."""
        self.lies["GetJob"] = lambda silo, asked, honest: change(silo, wire.Job.decode(honest(asked))).encode()

    def show_round(self, change: Callable[[str, wire.Round], wire.Round]) -> None:
        """Each silo is shown a round so."""
        self.lies["GetRound"] = lambda silo, asked, honest: change(silo, wire.Round.decode(honest(asked))).encode()

    def hold(self, phase: RoundPhase) -> None:
        """No silo hears of a later phase."""
        self.show_round(lambda _silo, view: view.model_copy(update={"phase": min(view.phase, phase)}))

    def tell(self, told: Mapping[str, "Told"]) -> None:
        """Each silo hears its own version of the round; what it says to it is taken, and told to nobody else."""
        self.show_round(lambda silo, view: told[silo][0].shown(view, told[silo][1]))
        self.lies["FetchSum"] = lambda silo, *_: (part.encode() for part in told[silo][0].parts())
        self.lies["SendFingerprint"] = lambda *_: wire.FingerprintTaken().encode()
        self.lies["ConsentRound"] = lambda *_: wire.ConsentTaken().encode()
        self.lies["ReportApplied"] = lambda *_: wire.AppliedTaken().encode()
        self.turn()
        self.turn()

    # -- what the attacker has -----------------------------------------------------------------------------------------

    def sign(self, statement: Statement) -> Signed:
        """With the aggregator's own key."""
        identity = Wallet(self.state.wallet).identity()
        return Signed(statement.body(), identity.sign(message_to_sign(statement)))

    def said(self, silo: str, kind: type[Statement]) -> list[Signed]:
        """What the silo signed of this kind and sent, each once."""
        method, message, part = CALLS[kind]
        sent = [message.decode(message.proto.FromString(data)) for data in self.faults.said[silo, method]]
        return list(dict.fromkeys(getattr(each, part) for each in sent))

    def updates(self, number: int = 1) -> dict[str, tuple[Signed, SealedUpdate]]:
        """Every update that silos submitted to a round, with its header."""
        assert self.store is not None
        with self.store.reading() as tx:
            headers = tx.statements(self.job, number, Kind.HEADER)
            row = tx.job(self.job)
        assert row is not None
        folder, plan = Blobs(self.state.blobs).round(self.job, number), JobPlan.decode(row.plan)
        found = {}
        for silo, header in headers.items():
            residues, seeds = update_paths(folder, silo, header, plan)
            found[silo] = header, SealedUpdate((residues.read_bytes(),), seeds.read_bytes())
        return found

    # -- what came of it -----------------------------------------------------------------------------------------------

    def states(self, number: int = 1) -> dict[str, str]:
        """Where every silo stands in a round."""
        runners = {name: silo.participation._runner for name, silo in self.silos.items() if silo.participation}
        return {name: type(runner.state(number)).__name__ for name, runner in runners.items() if runner}

    def why(self, silo: str, number: int = 1) -> str:
        """Why a silo refused a round."""
        participation = self.silos[silo].participation
        assert participation is not None
        assert participation._runner is not None
        return participation._runner.state(number).why


class Version:
    """How a round goes on after the collection, in one version: a signed commit, and what silos answered to it.

    `summed` are those whose ciphertexts are added, each as often as it is named: in an honest version the members.
    """

    def __init__(
        self,
        world: LyingWorld,
        members: tuple[str, ...] = NAMES,
        *,
        attempt: int = 1,
        number: int = 1,
        ctx: RoundContext | None = None,
        summed: tuple[str, ...] | None = None,
    ) -> None:
        self.world, self.members = world, members
        updates = world.updates(number)
        self.headers = tuple(updates[name][0] for name in members)
        self.seeds = {name: updates[name][1].seeds for name in members}
        self.chunks = add_updates(LAYOUT, [updates[name][1] for name in summed or members])
        self.commit = world.sign(
            RoundCommit(
                plan=world.job.hex(), aggregator="aggregator", round=number, attempt=attempt,
                ctx=ctx.digest().hex() if ctx else read(self.headers[0], UpdateHeader).ctx,
                sum_root=chunks_root([chunk_leaf(chunk) for chunk in self.chunks]).hex(),
                members=tuple(
                    CommitMember(silo=name, header=header_digest(header).hex())
                    for name, header in zip(members, self.headers, strict=True)
                ),
            )
        )  # fmt: skip
        self.digest = commit_digest(self.commit, self.headers)

    @property
    def fingerprints(self) -> tuple[Signed, ...]:
        """Those that members signed under this commit."""
        said = [signed for name in self.members for signed in self.world.said(name, Fingerprint)]
        return tuple(signed for signed in said if read(signed, Fingerprint).commit == self.digest.hex())

    @property
    def consents(self) -> tuple[Signed, ...]:
        """Those that silos signed to this transcript."""
        transcript = transcript_digest(self.digest, self.fingerprints).hex()
        said = [signed for name in self.world.silos for signed in self.world.said(name, Consent)]
        return tuple(signed for signed in said if read(signed, Consent).transcript == transcript)

    def shown(self, view: wire.Round, phase: RoundPhase) -> wire.Round:
        """The round as this version has it."""
        return view.model_copy(
            update={
                "phase": phase, "commit": self.commit, "headers": self.headers,
                "fingerprints": self.fingerprints, "consents": self.consents,
            }
        )  # fmt: skip

    def parts(self) -> Iterator[wire.SumPart]:
        """The sum as it is served."""
        for name, seeds in self.seeds.items():
            yield wire.SumPart(seeds=wire.MemberSeeds(silo=name, part=seeds))
        for chunk in self.chunks:
            yield wire.SumPart(residues=chunk)


Told = tuple[Version, RoundPhase]


def everybody(version: Version, phase: RoundPhase) -> dict[str, Told]:
    """All silos hear the same."""
    return dict.fromkeys(version.world.silos, (version, phase))


def hear(phase: RoundPhase, **versions: Version) -> dict[str, Told]:
    """Each silo hears another version, all of them that the round is at this phase."""
    return {silo: (version, phase) for silo, version in versions.items()}
