"""A made-up cohort with real keys: what statement and transcript tests are written with."""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.envelope import UpdateHeader, header_digest
from privacy.mail import MailKey
from privacy.plan import JobPlan, RoundContext
from privacy.roll import JobJoin
from privacy.statement import Signed, Statement, message_to_sign
from privacy.transcript import CommitMember, Consent, Fingerprint, RoundCommit, commit_digest, transcript_digest

KEY_COMMITMENT = b"k" * 32


class Cohort:
    """Silos, an aggregator and a rehearsal plan over them."""

    def __init__(self, *silos: str) -> None:
        self.keys = {name: Ed25519PrivateKey.generate() for name in (*silos, "aggregator")}
        self.mail_keys = {name: MailKey.generate() for name in silos}
        self.plan = JobPlan.model_validate(self.plan_fields(*silos))
        self.ctx = RoundContext(self.plan.digest(), 1, b"a" * 32, tuple(sorted(silos)))

    def plan_fields(self, *silos: str) -> dict[str, object]:
        return {
            "version": "cloister/v1", "name": "rehearsal", "federation": "test", "purpose": "to try the machinery",
            "task": {"kind": "rehearsal", "values": 1000, "update_range": 1.0}, "dp": None, "rounds": 2,
            "round_attempts": 4, "suite": "ckks-group", "parameters": "group", "open_to": "silos",
            "grid": {"bits": 16}, "initial_adapter": "0" * 64,
            "cohort": {"roster": [self.member(name) for name in sorted(silos)], "minimum": 2,
                       "tolerated_colluders": 0, "minimum_dataset_size": 1},
            "aggregator": self.member("aggregator"),
            "deadlines": dict.fromkeys(("join_job_s", "join_round_s", "submit_s", "consent_s", "apply_s"), 60.0),
            "created_utc": "2026-01-01T00:00:00Z", "nonce": "1" * 64,
        }  # fmt: skip

    def member(self, name: str) -> dict[str, str]:
        return {"name": name, "identity_key": self.keys[name].public_key().public_bytes_raw().hex()}

    def sign(self, statement: Statement, by: str | None = None) -> Signed:
        return Signed(statement.body(), self.keys[by or statement.signer].sign(message_to_sign(statement)))

    def job_join(self, silo: str) -> Signed:
        return self.sign(
            JobJoin(plan=self.plan.digest().hex(), silo=silo, mail_key=self.mail_keys[silo].public_bytes.hex())
        )

    def bound(self, silo: str, ctx: RoundContext | None = None) -> dict[str, object]:
        ctx = ctx or self.ctx
        return {
            "plan": self.plan.digest().hex(),
            "round": ctx.round_number,
            "ctx": ctx.digest().hex(),
            "silo": silo,
        }

    def header(self, silo: str, ctx: RoundContext | None = None, **changes: object) -> Signed:
        fields = {
            "values": self.plan.values,
            "key_commitment": KEY_COMMITMENT.hex(),
            "residues_root": hashlib.sha256(silo.encode()).hexdigest(),
            "seeds_sha256": "5" * 64,
        }
        return self.sign(UpdateHeader.model_validate({**self.bound(silo, ctx), **fields, **changes}))

    def commit(self, headers: list[Signed], names: list[str], **changes: object) -> Signed:
        pairs = zip(names, headers, strict=True)
        fields = {
            "plan": self.plan.digest().hex(),
            "round": self.ctx.round_number,
            "ctx": self.ctx.digest().hex(),
            "aggregator": "aggregator",
            "attempt": 1,
            "sum_root": "9" * 64,
            "members": [CommitMember(silo=name, header=header_digest(header).hex()) for name, header in pairs],
        }
        return self.sign(RoundCommit.model_validate({**fields, **changes}))

    def fingerprint(self, silo: str, commit: bytes, value: str = "00" * 40, ctx: RoundContext | None = None) -> Signed:
        fields = {**self.bound(silo, ctx), "commit": commit.hex(), "value": value}
        return self.sign(Fingerprint.model_validate(fields))

    def consent(self, silo: str, transcript: bytes, ctx: RoundContext | None = None) -> Signed:
        return self.sign(Consent.model_validate({**self.bound(silo, ctx), "transcript": transcript.hex()}))


def transcript_of(commit: Signed, headers: list[Signed], fingerprints: list[Signed]) -> bytes:
    return transcript_digest(commit_digest(commit, headers), fingerprints)
