"""A silo loses its power after it stored its consent, and a lying aggregator tells it another story when it is back.

The consent is on disk before it is sent: what comes after the crash is the same bytes, whatever is shown. Were it
signed again for what is shown then, two sums of one round would each get this silo's word.
"""

import pytest
from cloister.wire import RoundPhase

from privacy.transcript import Consent
from silo_agent.statements import said
from tests.lone_silo import LoneSilo

KIND = Consent.label()


class PowerCut(BaseException):
    """Nothing after this happens."""


def stored(silo: LoneSilo):
    with silo.home.store.reading() as connection:
        return said(connection, silo.job, 1, KIND)


@pytest.fixture(params=["Consented", "SendConsent"])
def crashed(silo, request):
    """Its consent is stored; at "Consented" it was not sent, at "SendConsent" nobody knows. It is on again."""

    def durably(point):
        if point == request.param:
            raise PowerCut

    silo.to_submitted()
    silo.port.make_commit()
    silo.start(durably)
    with pytest.raises(PowerCut):
        silo.advance()
    silo.start()
    assert silo.state == "Consented"
    return silo


def another_commit(silo, attempt):
    """The same round over east and north alone, with everybody's fingerprints: east's own is one that it never sent."""
    silo.port.make_commit(members=("east", "north"), attempt=attempt, ask=False)
    silo.port.fingerprints = []
    silo.port.show_fingerprints()


def test_told_the_same_it_sends_the_same_bytes(crashed):
    before = stored(crashed)
    crashed.advance()
    crashed.start()
    crashed.advance()
    assert set(crashed.port.consents) == {before}


@pytest.mark.parametrize("attempt", [1, 2])
def test_told_of_another_commit_it_sends_the_consent_that_it_stored(crashed, attempt):
    before, answered = stored(crashed), list(crashed.port.fingerprints)
    another_commit(crashed, attempt)
    crashed.port.fingerprints = list(answered)
    for phase in (RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED):
        crashed.port.phase = phase
        crashed.advance()
        assert crashed.state == "Consented"
    assert stored(crashed) == before
    assert set(crashed.port.consents) == {before}
    assert crashed.port.fingerprints == answered


def test_a_certificate_for_another_sum_opens_nothing(crashed):
    before = stored(crashed)
    another_commit(crashed, 2)
    crashed.port.certify("north", "west")
    crashed.advance(opened=(1,))
    assert crashed.state == "Refused"
    assert stored(crashed) == before
    assert not crashed.port.applied


def test_told_that_the_round_failed_it_says_nothing_more_of_it(crashed):
    before = stored(crashed)
    crashed.port.phase = RoundPhase.ABORTED
    crashed.advance()
    crashed.port.make_commit(ask=False)
    crashed.port.show_fingerprints()
    crashed.advance()
    assert crashed.state == "Burnt"
    assert stored(crashed) == before
    assert set(crashed.port.consents) <= {before}
