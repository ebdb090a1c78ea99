"""A real aggregator and scripted silos: real enrolment, real mutual TLS, signed statements, random reduced residues.

The aggregator cannot tell random residues from ciphertexts, nor random bytes from sealed shares, so no key is needed
to play a silo to it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cloister import wire
from cloister.v1 import enrolment_pb2_grpc, federation_pb2_grpc

from aggregator.attachments import release_body_bytes, release_mail_bytes, share_mail_bytes
from aggregator.client import Coordination
from aggregator.config import StateFolder
from aggregator.server import open_desk, open_store
from aggregator.setup import Founding, found
from certs.invitation import Invitation
from certs.names import Role
from certs.requests import IssuedCertificates
from certs.wallet import Wallet
from federation.processes import free_port
from privacy.ckks.fingerprint import encode, fingerprint_of
from privacy.ckks.layout import CHUNK_BYTES, Layout, chunk_leaf, chunks_root
from privacy.ckks.layouts import layout_of
from privacy.ckks.params import PRIME
from privacy.envelope import KeyedUpdateHeader, UpdateHeader, header_kind
from privacy.keyed import KeyedRoundJoin, Release, check_round_roll, mail_digests, mails_digest
from privacy.mail import MailKey
from privacy.plan import JobPlan, RoundContext
from privacy.record import header_check
from privacy.roll import JobJoin, JobRefusal, KeyDeal, MailDigest, check_roll, dealer_of
from privacy.statement import Signed, Statement, message_to_sign, read
from privacy.transcript import (
    Applied,
    Consent,
    Fingerprint,
    RoundCommit,
    RoundJoin,
    Withdrawal,
    check_commit,
    check_fingerprints,
    commit_digest,
)
from runtime.channels import open_channel, open_enrolment_channel
from runtime.status import peer_call
from tests.parties import Cohort

FEDERATION = "test-federation"
NAMES = ("silo-a", "silo-b", "silo-c")
FOUR = (*NAMES, "silo-d")
KEYED: dict[str, Any] = {
    "suite": "ckks-multikey",
    "parameters": "small",
    "cohort": {"minimum": 3, "tolerated_colluders": 1},
}  # changes to a plan over FOUR
COMMITMENT = b"k" * 32
CALL_S = 20.0


def found_aggregator(folder: Path, **settings: float | int) -> StateFolder:
    """A state folder on two free ports."""
    state = StateFolder(folder)
    listen, enrolment = (f"127.0.0.1:{free_port()}" for _ in range(2))
    found(state, Founding(FEDERATION, "aggregator", listen, enrolment, ()), datetime.now(UTC))
    with state.config.open("a") as file:
        file.writelines(f"{key} = {value}\n" for key, value in settings.items())
    return state


def invite(state: StateFolder, name: str, role: Role = Role.SILO) -> Invitation:
    config = state.load()
    store = open_store(state, config)
    try:
        return open_desk(state, config, store).invite(role, name, datetime.now(UTC))
    finally:
        store.close()


def enrol(folder: Path, invitation: Invitation) -> Wallet:
    """What `cloister silo enrol` does."""
    wallet = Wallet.create(folder, invitation.ca_pem, invitation.party)
    requests = wallet.requests()
    asked = wire.EnrolRequest(secret=invitation.secret, tls_csr_pem=requests.tls, identity_csr_pem=requests.identity)
    with open_enrolment_channel(invitation.address, invitation.ca_pem) as channel, peer_call("enrolling"):
        stub: Any = enrolment_pb2_grpc.EnrolmentServiceStub(channel)
        answer = wire.EnrolledCertificates.decode(stub.Enrol(asked.encode(), timeout=CALL_S))
    issued = IssuedCertificates(answer.tls_certificate_pem, answer.identity_certificate_pem)
    wallet.install(issued, datetime.now(UTC))
    return wallet


@dataclass(frozen=True)
class FakeUpdate:
    """Random reduced residues, and seeds or share mails, in the layout of one update."""

    chunks: tuple[bytes, ...]
    seeds: bytes = b""
    mails: tuple[bytes, ...] = ()

    @property
    def root(self) -> str:
        return chunks_root([chunk_leaf(chunk) for chunk in self.chunks]).hex()

    @property
    def seeds_sha256(self) -> str:
        return hashlib.sha256(self.seeds).hexdigest()

    @property
    def mails_digest(self) -> str:
        return mails_digest(mail_digests(self.mails))

    @property
    def attached(self) -> tuple[str, bytes]:
        """What goes before the residues, and what it is."""
        return ("mails", b"".join(self.mails)) if self.mails else ("seeds", self.seeds)


def fake_update(values: int, seed: int) -> FakeUpdate:
    layout, rng = Layout(values), np.random.default_rng(seed)
    residues = rng.integers(0, PRIME, layout.residue_bytes // 8, dtype=np.uint64).astype("<u8").tobytes()
    chunks = tuple(residues[i : i + CHUNK_BYTES] for i in range(0, len(residues), CHUNK_BYTES))
    return FakeUpdate(chunks, rng.bytes(layout.seed_bytes))


def fake_keyed_update(plan: JobPlan, participants: int, seed: int) -> FakeUpdate:
    layout, rng = layout_of(plan), np.random.default_rng(seed)
    primes = np.array(layout.moduli, np.uint32)[:, None]
    residues = rng.integers(0, primes, (layout.blocks, len(primes), layout.degree), np.uint32)
    chunks = tuple(layout.encode(residues, index) for index in range(layout.chunks))
    return FakeUpdate(chunks, mails=tuple(rng.bytes(share_mail_bytes(layout)) for _ in range(participants)))


@dataclass(frozen=True)
class FakeRelease:
    """Random bytes in the sizes of a sealed sum of shares and of its mails."""

    body: bytes
    mails: tuple[bytes, ...]

    @property
    def fields(self) -> dict[str, str]:
        """What its statement says of it."""
        digest = hashlib.sha256(self.body).hexdigest()
        return {"body_sha256": digest, "mails": mails_digest(mail_digests(self.mails))}


def fake_release(plan: JobPlan, receivers: int, seed: int) -> FakeRelease:
    rng, mail_bytes = np.random.default_rng(seed), release_mail_bytes()
    return FakeRelease(
        rng.bytes(release_body_bytes(layout_of(plan))), tuple(rng.bytes(mail_bytes) for _ in range(receivers))
    )


class KeyedCohort(Cohort):
    """A made-up cohort whose plan is of the suite `ckks-multikey`, with one colluder; and its keys for rounds."""

    def __init__(self, *silos: str) -> None:
        super().__init__(*silos)
        self.round_keys: dict[tuple[str, int], tuple[MailKey, MailKey]] = {}

    def plan_fields(self, *silos: str) -> dict[str, Any]:
        fields: dict[str, Any] = super().plan_fields(*silos)
        return fields | KEYED | {"cohort": fields["cohort"] | KEYED["cohort"]}

    def round_join(self, silo: str, ctx: RoundContext, **keys: str) -> Signed:
        """The same keys whenever it is asked for, unless told otherwise."""
        pair = self.round_keys.setdefault((silo, ctx.round_number), (MailKey.generate(), MailKey.generate()))
        fields = keyed_join_fields(*pair) | keys
        return self.sign(KeyedRoundJoin.model_validate({**self.bound(silo, ctx), **fields}))


def keyed_join_fields(share: MailKey, opening: MailKey) -> dict[str, str]:
    return {"share_key": share.public_bytes.hex(), "open_key": opening.public_bytes.hex()}


def rehearsal_plan(wallets: dict[str, Wallet], aggregator: Wallet, **changes: Any) -> JobPlan:
    def member(name: str, wallet: Wallet) -> dict[str, str]:
        return {"name": name, "identity_key": wallet.identity().public_key.hex()}

    deadlines = dict.fromkeys(("join_job_s", "join_round_s", "submit_s", "consent_s", "apply_s"), 120.0)
    cohort = {
        "roster": [member(name, wallets[name]) for name in sorted(wallets)],
        "minimum": 2,
        "tolerated_colluders": 0,
        "minimum_dataset_size": 1,
    }
    fields: dict[str, Any] = {
        "version": "cloister/v1", "name": "rehearsal", "federation": FEDERATION, "purpose": "to try the machinery",
        "task": {"kind": "rehearsal", "values": 20_000, "update_range": 1.0}, "dp": None, "rounds": 1,
        "round_attempts": 3, "suite": "ckks-group", "parameters": "group", "open_to": "silos", "grid": {"bits": 16},
        "initial_adapter": "0" * 64,
        "aggregator": member("aggregator", aggregator),
        "created_utc": "2026-01-01T00:00:00Z", "nonce": "1" * 64,
    }  # fmt: skip
    fields["cohort"] = cohort | changes.pop("cohort", {})
    fields["deadlines"] = deadlines | changes.pop("deadlines", {})
    return JobPlan.model_validate(fields | changes)


def data_task(artifact: bytes) -> dict[str, Any]:
    """A job on data, as far as an aggregator looks at it: what its plan pins."""
    tensor = {"name": "w", "shape": [10], "update_range": 1.0, "learning_rate": 0.1}
    adapter = {
        "method": "head", "rank": 0, "alpha": 0.0, "target_modules": [], "layers": [], "head": "model",
        "initial_sha256": hashlib.sha256(artifact).hexdigest(), "tensors": [tensor],
    }  # fmt: skip
    model = {"source": "model", "revision": None, "weights_sha256": "0" * 64}
    task = {"kind": "sequence-classification", "labels": ["a", "b"], "max_tokens": 8, "model": model}
    dp = {
        "clip_l2": 1.0, "noise_multiplier": 1.0, "sampling_rate": 0.1, "steps_per_round": 1,
        "expected_batch_size": 8.0, "unit": "record", "delta": 1e-5,
    }  # fmt: skip
    return {"task": task | {"adapter": adapter}, "dp": dp}


@dataclass
class ScriptedSilo:
    """Says what it is told to, as itself unless told otherwise."""

    name: str
    wallet: Wallet
    address: str
    plan: JobPlan | None = None
    mail_key: MailKey = field(default_factory=MailKey.generate)
    updates: dict[int, FakeUpdate] = field(default_factory=dict)
    round_keys: dict[int, tuple[MailKey, MailKey]] = field(default_factory=dict)
    _following: Any = None

    def __post_init__(self) -> None:
        self.dial()

    def dial(self) -> None:
        self.channel = open_channel(self.address, self.wallet, datetime.now(UTC))
        self.stub: Any = federation_pb2_grpc.FederationServiceStub(self.channel)

    def close(self) -> None:
        self.leave()
        self.channel.close()

    # -- statements ----------------------------------------------------------------------------------------------------

    def sign(self, statement: Statement) -> Signed:
        return Signed(statement.body(), self.wallet.identity().sign(message_to_sign(statement)))

    @property
    def job(self) -> bytes:
        assert self.plan is not None
        return self.plan.digest()

    def ctx(self, number: int = 1) -> RoundContext:
        found = self.round(number)
        return RoundContext(self.job, number, found.adapter_digest, found.participants)

    def bound(self, number: int = 1) -> dict[str, Any]:
        digest = self.ctx(number).digest().hex()
        return {"plan": self.job.hex(), "round": number, "ctx": digest, "silo": self.name}

    def header(self, update: FakeUpdate, number: int = 1, **changes: Any) -> Signed:
        assert self.plan is not None
        fields = {"values": self.plan.values, "residues_root": update.root}
        if self.plan.suite.keyed:
            roll = check_round_roll(self.plan, self.ctx(number), self.round(number).joins)
            fields |= {"roll": roll.digest.hex(), "mails": update.mails_digest}
        else:
            fields |= {"key_commitment": COMMITMENT.hex(), "seeds_sha256": update.seeds_sha256}
        kind: type[UpdateHeader | KeyedUpdateHeader] = header_kind(self.plan.suite)
        return self.sign(kind.model_validate({**self.bound(number), **fields, **changes}))

    # -- calls ---------------------------------------------------------------------------------------------------------

    def call(self, method: str, message: wire.WireMessage) -> Any:
        with peer_call(method):
            return getattr(self.stub, method)(message.encode(), timeout=CALL_S)

    def follow(self) -> Iterator[wire.Notice]:
        """Opens the stream; the silo is connected once the first notice (or none) can be read."""
        self._following = self.stub.Follow(wire.FollowRequest(software="scripted").encode(), timeout=300)
        return self._notices()

    def _notices(self) -> Iterator[wire.Notice]:
        with peer_call("following"):
            for message in self._following:
                yield wire.Notice.decode(message)

    def leave(self) -> None:
        if self._following is not None:
            self._following.cancel()

    def job_view(self) -> wire.Job:
        return wire.Job.decode(self.call("GetJob", wire.GetJobRequest(job=self.job)))

    def round(self, number: int = 1) -> wire.Round:
        return wire.Round.decode(self.call("GetRound", wire.GetRoundRequest(job=self.job, round=number)))

    def join_job(self) -> Signed:
        key = self.mail_key.public_bytes.hex()
        signed = self.sign(JobJoin(plan=self.job.hex(), silo=self.name, mail_key=key))
        self.call("JoinJob", wire.JoinJobRequest(join=signed))
        return signed

    def refuse_job(self) -> None:
        signed = self.sign(JobRefusal(plan=self.job.hex(), silo=self.name, reason="steward"))
        self.call("RefuseJob", wire.RefuseJobRequest(refusal=signed))

    def deal(self) -> None:
        """The scripted key: a mail of nonsense to each other member."""
        assert self.plan is not None
        roll = check_roll(self.plan, self.job_view().joins)
        mails = {name: f"sealed for {name}".encode() for name in roll.members if name != self.name}
        digests = tuple(MailDigest(to=to, sha256=hashlib.sha256(sealed).hexdigest()) for to, sealed in mails.items())
        deal = KeyDeal(
            plan=self.job.hex(), silo=self.name, roll=roll.digest.hex(), key_commitment=COMMITMENT.hex(), mails=digests
        )
        letters = tuple(wire.Mail(to=to, sealed=sealed) for to, sealed in mails.items())
        self.call("DealKey", wire.DealKeyRequest(deal=self.sign(deal), mails=letters))

    def join_round(self, number: int = 1, **keys: str) -> None:
        assert self.plan is not None
        if self.plan.suite.keyed:
            pair = self.round_keys.setdefault(number, (MailKey.generate(), MailKey.generate()))
            fields = {**self.bound(number), **keyed_join_fields(*pair), **keys}
            signed = self.sign(KeyedRoundJoin.model_validate(fields))
        else:
            signed = self.sign(RoundJoin.model_validate(self.bound(number)))
        self.call("JoinRound", wire.JoinRoundRequest(join=signed))

    def withdraw(self, number: int = 1) -> None:
        signed = self.sign(Withdrawal.model_validate(self.bound(number)))
        self.call("WithdrawRound", wire.WithdrawRoundRequest(withdrawal=signed))

    def submit(self, update: FakeUpdate, number: int = 1, header: Signed | None = None) -> Signed:
        header = header or self.header(update, number)
        self.send([wire.UpdatePart(header=header), *self.parts(update)])
        self.updates[number] = update
        return header

    def parts(self, update: FakeUpdate) -> list[wire.UpdatePart]:
        kind, attached = update.attached
        half = len(attached) // 2
        before = [wire.UpdatePart(**{kind: part}) for part in (attached[:half], attached[half:])]
        return [*before, *(wire.UpdatePart(residues=chunk) for chunk in update.chunks)]

    def send(self, parts: Sequence[wire.UpdatePart]) -> None:
        with peer_call("SubmitUpdate"):
            self.stub.SubmitUpdate((part.encode() for part in parts), timeout=CALL_S)

    def sum(self, number: int = 1) -> tuple[dict[str, bytes], bytes]:
        """The members' seeds and the residues."""
        seeds: dict[str, bytes] = {}
        residues = b""
        with peer_call("FetchSum"):
            request = wire.FetchSumRequest(job=self.job, round=number).encode()
            for message in self.stub.FetchSum(request, timeout=CALL_S):
                part = wire.SumPart.decode(message)
                if part.seeds is not None:
                    seeds[part.seeds.silo] = seeds.get(part.seeds.silo, b"") + part.seeds.part
                residues += part.residues or b""
        return seeds, residues

    def transcript(self, number: int = 1) -> bytes:
        found = self.round(number)
        assert self.plan is not None
        assert found.commit is not None
        ctx, job = self.ctx(number), self.job_view()
        check = header_check(self.plan, ctx, check_roll(self.plan, job.joins), found.joins, job.deal)
        commit = check_commit(self.plan, ctx, check, found.commit, found.headers)
        return check_fingerprints(self.plan, ctx, commit, found.fingerprints).digest

    def fingerprint(self, number: int = 1, update: FakeUpdate | None = None, **changes: Any) -> Signed:
        """Of the update it sent, or of another one."""
        assert self.plan is not None
        found = self.round(number)
        assert found.commit is not None
        commit = commit_digest(found.commit, found.headers)
        value = encode(fingerprint_of(layout_of(self.plan), commit, (update or self.updates[number]).chunks))
        fields = {**self.bound(number), "commit": commit.hex(), "value": value, **changes}
        signed = self.sign(Fingerprint.model_validate(fields))
        self.call("SendFingerprint", wire.SendFingerprintRequest(fingerprint=signed))
        return signed

    def consent(self, number: int = 1, transcript: bytes | None = None) -> None:
        digest = (transcript or self.transcript(number)).hex()
        signed = self.sign(Consent.model_validate({**self.bound(number), "transcript": digest}))
        self.call("ConsentRound", wire.ConsentRoundRequest(consent=signed))

    def mails(self, number: int = 1) -> list[wire.ShareMail]:
        """The share mails to this silo."""
        request = wire.FetchMailsRequest(job=self.job, round=number).encode()
        with peer_call("FetchMails"):
            return [wire.ShareMail.decode(each) for each in self.stub.FetchMails(request, timeout=CALL_S)]

    def fake_release(self, number: int = 1) -> FakeRelease:
        """The same whenever it is asked for."""
        assert self.plan is not None
        return fake_release(self.plan, len(self.job_view().joins), 1000 * number + sum(self.name.encode()))

    def release(self, number: int = 1, *, sent: FakeRelease | None = None, **changes: Any) -> Signed:
        """Its release; `sent` goes with the statement instead of what the statement is of."""
        released = self.fake_release(number)
        fields = {**self.bound(number), **released.fields, "transcript": self.transcript(number).hex(), **changes}
        signed, sent = self.sign(Release.model_validate(fields)), sent or released
        self.call("SendRelease", wire.SendReleaseRequest(release=signed, body=sent.body, mails=b"".join(sent.mails)))
        return signed

    def releases(self, number: int = 1) -> list[wire.ShownRelease]:
        """What opens the sum."""
        request = wire.FetchReleasesRequest(job=self.job, round=number).encode()
        with peer_call("FetchReleases"):
            return [wire.ShownRelease.decode(each) for each in self.stub.FetchReleases(request, timeout=CALL_S)]

    def applied(self, number: int = 1, adapter: bytes = b"n" * 32) -> None:
        signed = self.sign(Applied.model_validate({**self.bound(number), "adapter": adapter.hex()}))
        self.call("ReportApplied", wire.ReportAppliedRequest(applied=signed))


@dataclass
class Cast:
    """An aggregator that runs, its silos, and one job that all of them may join."""

    state: StateFolder
    silos: dict[str, ScriptedSilo]
    plan: JobPlan

    @property
    def all(self) -> list[ScriptedSilo]:
        return list(self.silos.values())

    @contextmanager
    def coordinator(self) -> Iterator[Coordination]:
        from aggregator.client import coordinator

        with coordinator(self.state) as found:
            yield found

    def write_job(self, folder: Path) -> Path:
        folder.mkdir()
        (folder / "plan.json").write_bytes(self.plan.encode())
        return folder

    def status(self) -> wire.JobStatus:
        with self.coordinator() as found:
            return found.find(self.plan.name)

    def deal(self, *names: str) -> None:
        """These (or all) follow and join, and the dealer deals where the suite has one."""
        for name in names or tuple(self.silos):
            next(self.silos[name].follow())
            self.silos[name].join_job()
        if self.plan.suite.keyed:
            return
        dealer = dealer_of(self.plan.digest(), check_roll(self.plan, self.all[0].job_view().joins))
        self.silos[dealer].deal()

    def fingerprint(self, number: int = 1) -> None:
        """Every member of the sum answers."""
        found = self.all[0].round(number)
        assert found.commit is not None
        for member in read(found.commit, RoundCommit).members:
            self.silos[member.silo].fingerprint(number)

    def update_of(self, name: str, number: int = 1) -> FakeUpdate:
        seed = 100 * number + sorted(self.silos).index(name)
        if self.plan.suite.keyed:
            return fake_keyed_update(self.plan, len(self.all[0].round(number).participants), seed)
        return fake_update(self.plan.values, seed)

    def close(self) -> None:
        for silo in self.all:
            silo.close()


def make_cast(folder: Path, state: StateFolder, names: Sequence[str] = NAMES, **changes: Any) -> Cast:
    """Enrol the silos at a running aggregator and plan a job over them."""
    wallets = {name: enrol(folder / name, invite(state, name)) for name in names}
    plan = rehearsal_plan(wallets, Wallet(state.wallet), **changes)
    address = state.load().listen
    silos = {name: ScriptedSilo(name, wallet, address, plan) for name, wallet in wallets.items()}
    return Cast(state, silos, plan)
