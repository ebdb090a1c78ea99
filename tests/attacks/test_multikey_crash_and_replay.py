"""The same statement twice, after a crash at any step; and statements, mails and releases of an earlier round."""

import pytest
from cloister.wire import JobPhase, RoundPhase

from privacy.keyed import KeyedRoundJoin, KeyedUpdateHeader, Release
from privacy.statement import read
from privacy.transcript import Consent
from silo_agent.vault import Secret
from tests.attacks.keyed import FOUR, KeyedVersion
from tests.attacks.lying import everybody

SHARING, RELEASING = RoundPhase.SHARING, RoundPhase.RELEASING


@pytest.mark.parametrize(
    "point", ["Fingerprinted", "Consented", "SendConsent", "Certified", "Released", "SendRelease", "Unlocked", "Opened"]
)
def test_after_a_crash_at_any_step_a_silo_says_the_same_bytes_again(keyed, point):
    keyed.lies.clear()
    keyed.silos["north"].off_after = point
    keyed.run(until=lambda: not keyed.silos["north"].up)
    keyed.come_back("north")
    keyed.run(until=lambda: keyed.rounds()[0].phase is RoundPhase.PUBLISHED and keyed.states()["north"] == "Applied")
    for kind in (KeyedRoundJoin, KeyedUpdateHeader, Consent, Release):
        of_round_1 = [each for each in keyed.said("north", kind) if read(each, kind).round == 1]
        assert len(of_round_1) <= 1, kind
    bodies = {sent.body for sent in keyed.every_release("north") if read(sent.release, Release).round == 1}
    assert len(bodies) <= 1


def test_a_crash_between_release_and_sending_and_another_story_when_it_is_back(keyed):
    """Its release is stored: it goes out as it is, whatever sum it is shown then, and never a second one."""
    whole = KeyedVersion(keyed)
    for phase in (RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED):
        keyed.tell(everybody(whole, phase))
    keyed.silos["north"].off_after = "Released"
    keyed.tell(everybody(whole, SHARING))
    assert keyed.said("north", Release) == []
    rest = KeyedVersion(keyed, ("east", "north", "west"), attempt=2)
    keyed.come_back("north")
    for phase in (RoundPhase.FINGERPRINTING, RoundPhase.COMMITTED, SHARING):
        keyed.tell(everybody(rest, phase))
    assert rest.released_by == []
    (release,) = keyed.said("north", Release)
    assert "north" in whole.released_by
    assert read(release, Release).round == 1
    vault = keyed.silos["north"].home.vault
    assert not any(vault.has(keyed.job, secret, 1) for secret in (Secret.SHARE_KEY, Secret.SHARES)), "step 9, caught up"


@pytest.fixture
def second_round(keyed):
    """Round 2 has a certificate, and every silo has released; the attacker has round 1's releases as well."""
    keyed.lies.clear()
    keyed.run(until=lambda: keyed.rounds()[0].phase is RoundPhase.PUBLISHED)
    keyed.lies["FetchReleases"] = lambda silo, *_: (each.encode() for each in keyed.shown_releases(1, silo))
    return keyed


def test_releases_of_an_earlier_round_open_nothing(second_round):
    world = second_round
    world.run(until=lambda: len(world.rounds()) > 1 and world.rounds()[1].phase is RELEASING, seconds=0.5)
    for _ in range(5):
        world.turn(seconds=0.5)
    assert set(world.states(2).values()) == {"Unlocked"}
    assert {silo.adapter[0] for silo in world.silos.values()} == {1}
    world.lies.clear()
    world.run()
    assert world.status().phase is JobPhase.FINISHED, "with its own releases the same round opens"
    assert {silo.adapter[0] for silo in world.silos.values()} == {2}


def test_consents_of_an_earlier_round_certify_nothing(keyed):
    keyed.lies.clear()
    keyed.run(until=lambda: keyed.rounds()[0].phase is RoundPhase.PUBLISHED)
    old = tuple(each for name in FOUR for each in keyed.said(name, Consent))

    def replay(_silo, view):
        if view.phase is not RoundPhase.COMMITTED:
            return view
        return view.model_copy(update={"phase": SHARING, "consents": old})

    keyed.show_round(replay)
    keyed.run(until=lambda: set(keyed.states(2).values()) == {"Refused"})
    assert all(len(keyed.said(name, Release)) == 1 for name in FOUR), "one each, of round 1"
    assert "replayed" in keyed.why("east", 2) or "another context" in keyed.why("east", 2)
