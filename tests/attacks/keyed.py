"""`lying.py` with one-time keys: what the attacker has of a round of `ckks-multikey`, and versions of such a round."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from cloister import wire
from cloister.wire import RoundPhase

from aggregator.accumulate import update_paths
from aggregator.blobs import Blobs
from aggregator.rebuild import context_of
from aggregator.store import Kind
from privacy.ckks import multikey
from privacy.ckks.layout import chunk_leaf, chunks_root
from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.ckks.multikey_params import MultikeyParams
from privacy.ckks.shares import Share, add_shares, check_share
from privacy.ckks.shares import open_sum as open_keys
from privacy.envelope import KeyedUpdateHeader, header_digest
from privacy.keyed import Release, RoundRoll, check_round_roll, mail_digests, receivers_of
from privacy.keyed_mail import open_share
from privacy.mail import MailKey
from privacy.plan import JobPlan, RoundContext
from privacy.quantise import quantise_blocks
from privacy.roll import check_roll
from privacy.statement import Signed, read
from privacy.suites import Suite
from privacy.transcript import CommitMember, RoundCommit, commit_digest, transcript_digest
from silo_agent.rehearsal import rehearsal_vector
from silo_agent.vault import Secret, Vault
from tests.attacks.lying import LyingWorld, Version
from tests.sim.world import UPDATE_RANGE, VALUES

FOUR = ("east", "north", "south", "west")
COLLUDERS = 1
THRESHOLD = 3  # floor((4 + 1) / 2) + 1
LAYOUT = MultikeyLayout(VALUES, MultikeyParams("small", len(FOUR), 16))


@dataclass(frozen=True)
class Ciphertext:
    """One silo's update as the aggregator has it."""

    header: Signed
    chunks: tuple[bytes, ...]
    mails: tuple[bytes, ...]  # in the participants' order


class KeyedWorld(LyingWorld):
    """Four silos with a key each, one of which may collude."""

    def begin(self, rounds: int = 2) -> None:
        """Submit the job."""
        self.submit(self.plan(suite=Suite.CKKS_MULTIKEY, colluders=COLLUDERS, minimum=3, rounds=rounds))

    # -- what the attacker has -----------------------------------------------------------------------------------------

    @property
    def job_plan(self) -> JobPlan:
        assert self.store is not None
        with self.store.reading() as tx:
            row = tx.job(self.job)
        assert row is not None
        return JobPlan.decode(row.plan)

    def context(self, number: int = 1) -> RoundContext:
        assert self.store is not None
        with self.store.reading() as tx:
            row = tx.round(self.job, number)
        assert row is not None
        return context_of(self.job, row)

    def statements(self, kind: Kind, number: int = 1) -> dict[str, Signed]:
        assert self.store is not None
        with self.store.reading() as tx:
            return dict(tx.statements(self.job, number, kind))

    def ciphertexts(self, number: int = 1) -> dict[str, Ciphertext]:
        """Every update that silos submitted to a round."""
        folder, plan, found = Blobs(self.state.blobs).round(self.job, number), self.job_plan, {}
        for silo, header in self.statements(Kind.HEADER, number).items():
            residues, mails = (path.read_bytes() for path in update_paths(folder, silo, header, plan))
            size = len(mails) // len(FOUR)
            found[silo] = Ciphertext(header, (residues,), tuple(mails[i * size :][:size] for i in range(len(FOUR))))
        return found

    def roll(self, number: int = 1) -> RoundRoll:
        return check_round_roll(self.job_plan, self.context(number), self.statements(Kind.ROUND_JOIN, number).values())

    def secret_of(self, silo: str, secret: Secret, number: int = 1) -> bytes:
        """What lies in a silo's vault."""
        return Vault(self.silos[silo].state / "vault").get(self.job, secret, number)

    def every_release(self, silo: str) -> list[wire.SendReleaseRequest]:
        """What a silo released, body and mails, as often as it sent it."""
        message = wire.SendReleaseRequest
        return [message.decode(message.proto.FromString(data)) for data in self.faults.said[silo, "SendRelease"]]

    def shown_releases(self, number: int, silo: str) -> Iterator[wire.ShownRelease]:
        """What was released in a round, with this silo's mails."""
        roll = check_roll(self.job_plan, self.statements(Kind.JOB_JOIN, 0).values())
        receivers = list(receivers_of(roll, self.roll(number)))
        for sent in [each for name in FOUR for each in self.every_release(name)]:
            if read(sent.release, Release).round == number:
                size = len(sent.mails) // len(receivers)
                mails = [sent.mails[i * size :][:size] for i in range(len(receivers))]
                mail, digests = mails[receivers.index(silo)], mail_digests(mails)
                yield wire.ShownRelease(release=sent.release, body=sent.body, digests=digests, mail=mail)

    # -- lies ----------------------------------------------------------------------------------------------------------

    def tell(self, told: Mapping[str, tuple[Version, RoundPhase]]) -> None:
        """Each silo hears its own version; share mails come from the members that its version names."""
        versions = {silo: version for silo, (version, _) in told.items()}
        self.lies["FetchMails"] = lambda silo, *_: (mail.encode() for mail in versions[silo].mails_to(silo))
        self.lies["FetchReleases"] = lambda silo, *_: (
            each.encode() for each in self.shown_releases(versions[silo].number, silo)
        )
        self.lies["SendRelease"] = lambda *_: wire.ReleaseTaken().encode()
        super().tell(told)


class KeyedVersion(Version):
    """How a round with one-time keys goes on in one version. `summed` as in Version."""

    world: KeyedWorld

    def __init__(  # its parent's, with the other suite's parts
        self,
        world: KeyedWorld,
        members: tuple[str, ...] = FOUR,
        *,
        attempt: int = 1,
        number: int = 1,
        summed: tuple[str, ...] | None = None,
    ) -> None:
        self.world, self.members, self.number = world, members, number
        self.updates = world.ciphertexts(number)
        self.headers = tuple(self.updates[name].header for name in members)
        self.seeds = {}
        self.chunks = add(self.updates[name].chunks for name in summed or members)
        self.commit = world.sign(
            RoundCommit(
                plan=world.job.hex(), aggregator="aggregator", round=number, attempt=attempt,
                ctx=read(self.headers[0], KeyedUpdateHeader).ctx,
                sum_root=chunks_root([chunk_leaf(chunk) for chunk in self.chunks]).hex(),
                members=tuple(
                    CommitMember(silo=name, header=header_digest(header).hex())
                    for name, header in zip(members, self.headers, strict=True)
                ),
            )
        )  # fmt: skip
        self.digest = commit_digest(self.commit, self.headers)

    def mails_to(self, silo: str) -> Iterator[wire.ShareMail]:
        """The members' share mails to this silo."""
        for name in self.members:
            mails = self.updates[name].mails
            yield wire.ShareMail(sender=name, digests=mail_digests(mails), sealed=mails[FOUR.index(silo)])

    @property
    def released_by(self) -> list[str]:
        """Who released sums of shares of this version's members."""
        transcript = transcript_digest(self.digest, self.fingerprints).hex()
        said = [read(signed, Release) for name in FOUR for signed in self.world.said(name, Release)]
        return [release.silo for release in said if release.transcript == transcript]


def add(updates: Iterable[tuple[bytes, ...]]) -> list[bytes]:
    """What the aggregator does with ciphertexts."""
    total = LAYOUT.empty_sum()
    for chunks in updates:
        for index, chunk in enumerate(chunks):
            LAYOUT.add(total, index, LAYOUT.check(chunk, index))
    return [LAYOUT.encode(total, index) for index in range(LAYOUT.chunks)]


def grid_of(world: LyingWorld, silo: str, number: int = 1) -> np.ndarray:
    """What a silo sealed: the secret that the attacker is after."""
    vector = rehearsal_vector(silo, world.job, number, VALUES, UPDATE_RANGE)
    ranges = np.full(VALUES, UPDATE_RANGE, np.float32)
    return np.concatenate(list(quantise_blocks(vector, ranges, 16, LAYOUT.values_per_block))).astype(np.int64)


def opened(key: np.ndarray, ctx: RoundContext, members: int, chunks: tuple[bytes, ...] | list[bytes]) -> np.ndarray:
    """The opening that silos use. Raises VerificationError where nothing opens."""
    return np.concatenate(list(multikey.open_sum(key, ctx.digest(), LAYOUT, members, chunks))).astype(np.int64)


def shares_of(world: KeyedWorld, thief: str, dealer: str, number: int = 1) -> Share:
    """The share of the dealer's key that the thief was mailed, opened with what lies in the thief's vault."""
    key = MailKey(world.secret_of(thief, Secret.SHARE_KEY, number))
    mail = world.ciphertexts(number)[dealer].mails[FOUR.index(thief)]
    data = open_share(key, world.context(number), world.roll(number), mail, sender=dealer, to=thief)
    return check_share(data, LAYOUT.degree, sender=dealer, step="fingerprint")


def sum_of_shares(world: KeyedWorld, silo: str, members: tuple[str, ...], number: int = 1) -> Share:
    """What a silo would release for these members."""
    return add_shares([shares_of(world, silo, name, number) for name in members])


def key_of(shares: Mapping[str, Share], members: int) -> np.ndarray:
    """The sum of keys in sums of shares, by whose they are."""
    points = {FOUR.index(silo) + 1: share for silo, share in shares.items()}
    return open_keys(points, THRESHOLD, LAYOUT.params.bound(members), os.urandom).total
