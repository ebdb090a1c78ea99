"""A round's record checks offline, and any one change to it is found."""

import hashlib

import pytest

from privacy.errors import ProtocolError, VerificationError
from privacy.record import RoundRecord, SignedText, check_record
from privacy.roll import KeyDeal, MailDigest, check_roll, dealer_of
from privacy.transcript import Applied, RoundJoin, commit_digest
from tests.parties import KEY_COMMITMENT, Cohort, transcript_of

SILOS = ["a", "b", "c"]
COHORT = Cohort(*SILOS)


def texts(statements: list) -> tuple[SignedText, ...]:
    return tuple(SignedText.of(signed) for signed in statements)


@pytest.fixture(scope="module")
def record() -> RoundRecord:
    joins = [COHORT.job_join(name) for name in SILOS]
    roll = check_roll(COHORT.plan, joins)
    dealer = dealer_of(COHORT.plan.digest(), roll)
    deal = KeyDeal(
        plan=COHORT.plan.digest().hex(),
        silo=dealer,
        roll=roll.digest.hex(),
        key_commitment=KEY_COMMITMENT.hex(),
        mails=tuple(MailDigest(to=n, sha256=hashlib.sha256(b"m").hexdigest()) for n in SILOS if n != dealer),
    )
    headers = [COHORT.header(name) for name in SILOS]
    commit = COHORT.commit(headers, SILOS)
    fingerprints = [COHORT.fingerprint(name, commit_digest(commit, headers)) for name in SILOS]
    tau = transcript_of(commit, headers, fingerprints)
    return RoundRecord(
        plan=COHORT.plan.encode().decode(),
        job_joins=texts(joins),
        deal=SignedText.of(COHORT.sign(deal)),
        round=1,
        adapter_digest=COHORT.ctx.adapter_digest.hex(),
        participants=COHORT.ctx.participants,
        round_joins=texts([COHORT.sign(RoundJoin.model_validate(COHORT.bound(name))) for name in SILOS]),
        commit=SignedText.of(commit),
        headers=texts(headers),
        fingerprints=texts(fingerprints),
        releases=(),
        consents=texts([COHORT.consent(name, tau) for name in SILOS]),
        applied=texts(
            [COHORT.sign(Applied.model_validate({**COHORT.bound(name), "adapter": "7" * 64})) for name in SILOS]
        ),
    )


def test_an_untouched_record_checks_and_survives_its_encoding(record: RoundRecord) -> None:
    again = RoundRecord.decode(record.encode())
    assert again == record
    verdict = check_record(again)
    assert verdict.transcript.commit.members == ("a", "b", "c")
    assert verdict.adapters == dict.fromkeys(SILOS, "7" * 64)


@pytest.mark.parametrize("field", ["job_joins", "round_joins", "headers", "fingerprints", "consents", "applied"])
def test_every_signature_counts(record: RoundRecord, field: str) -> None:
    statements = getattr(record, field)
    forged = statements[0].model_copy(update={"signature": statements[1].signature})
    with pytest.raises(ProtocolError, match="signature is not"):
        check_record(record.model_copy(update={field: (forged, *statements[1:])}))


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"round": 2}, ProtocolError, "another context"),
        ({"adapter_digest": "0" * 64}, ProtocolError, "another context"),
        ({"participants": ("a", "b")}, ProtocolError, "another context"),
        ({"headers": ()}, ProtocolError, "members are not those"),
        ({"fingerprints": ()}, ProtocolError, "are not those of the sum's members"),
        ({"consents": ()}, ProtocolError, "0 consents of 2"),
        ({"round_joins": ()}, ProtocolError, "goes on with joins of nobody; its participants are a, b, c"),
        ({"deal": None}, VerificationError, "has no key deal as ckks-group has it"),
    ],
)
def test_every_field_counts(record: RoundRecord, change: dict, error: type, reason: str) -> None:
    with pytest.raises(error, match=reason):
        check_record(record.model_copy(update=change))


@pytest.mark.parametrize("field", ["job_joins", "round_joins", "consents", "applied"])
def test_a_round_has_one_record(record: RoundRecord, field: str) -> None:
    """Each statement once, by its signer: nobody makes another file of the same signatures."""
    statements = getattr(record, field)
    for others in (statements[::-1], (*statements, statements[0]), (statements[0], *statements)):
        with pytest.raises((ProtocolError, VerificationError), match=r"sorted by silo|twice|goes on with joins"):
            check_record(record.model_copy(update={field: others}))


def test_different_next_adapters_are_found(record: RoundRecord) -> None:
    other = COHORT.sign(Applied.model_validate({**COHORT.bound("c"), "adapter": "8" * 64}))
    with pytest.raises(VerificationError, match="different next adapters"):
        check_record(record.model_copy(update={"applied": (*record.applied[:2], SignedText.of(other))}))


def test_another_plan_is_another_job(record: RoundRecord) -> None:
    plan = COHORT.plan.model_copy(update={"rounds": 3})
    with pytest.raises(ProtocolError, match="another job"):
        check_record(record.model_copy(update={"plan": plan.encode().decode()}))
