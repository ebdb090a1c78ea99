"""The aggregator isolates one silo: "the sum" that it has opened is one update.

It tries every place where a number of members stands: the participants, the commit, the sum, the certificate. The
silo counts each of them itself, against the plan that it approved.
"""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import ProtocolError
from privacy.plan import RoundContext
from tests.lone_silo import OWN


def refuses(silo, why, opened=()):
    """It refuses the round for this reason: nothing is opened or reported, and the refusal is on its ledger."""
    silo.advance(opened=opened)
    assert silo.state == "Refused"
    assert why in silo.runner.state(1).why
    assert silo.kinds[-1] == "refuse"
    assert not silo.port.applied
    assert not (silo.folder / "artifacts" / silo.job.hex() / "adapter-1.f32").exists()


def test_a_round_of_one_is_not_joined(silo):
    silo.port.ctx = RoundContext(silo.job, 1, silo.ctx.adapter_digest, (OWN,))
    with pytest.raises(ProtocolError, match=r"has 1 participants; .* it takes 2"):
        silo.advance()
    assert silo.port.calls == ["get_round"], "it said nothing"


def test_a_commit_to_one_is_not_answered(silo):
    silo.to_submitted()
    silo.port.make_commit(members=(OWN,))
    refuses(silo, "sums 1 updates; the plan's minimum is 2")
    assert silo.port.fingerprints == []
    assert silo.port.consents == []


def test_a_sum_of_one_behind_a_list_of_three_is_not_consented_to(silo):
    silo.to_submitted()
    own = list(silo.port.updates[0][2])
    silo.port.make_commit(change=lambda _honest: own)
    refuses(silo, "is not the sum of its members' ciphertexts")
    assert silo.port.consents == []


@pytest.mark.parametrize("forger", ["aggregator", OWN, "a key that the CA certified"])
def test_a_peer_whose_update_the_aggregator_makes_up_does_not_count(silo, forger):
    silo.to_submitted()
    silo.cohort.keys["north"] = silo.cohort.keys.get(forger) or Ed25519PrivateKey.generate()
    silo.port.make_commit()
    refuses(silo, "the signature is not north's")
    assert silo.port.fingerprints == []


def test_a_silos_consent_alone_opens_nothing(silo):
    silo.to_consented()
    silo.port.certify(OWN)
    silo.port.given_consents *= 3
    refuses(silo, "has 1 consents of 2", opened=(1,))
