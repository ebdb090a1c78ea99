"""The aggregator carries the share mails: it swaps them, brings old ones, or puts its own keys under a silo's name.

Each mail is bound by HPKE to round, joins, sender and receiver, and the sender's signed header has the digest of all.
What a silo is shown instead is refused before it is opened, or read by nobody.
"""

import pytest
from cloister import wire
from cloister.wire import RoundPhase

from privacy.keyed import KeyedRoundJoin, mail_digests
from privacy.mail import MailKey
from privacy.statement import Signed, read
from privacy.transcript import Consent
from tests.attacks.keyed import FOUR, KeyedVersion
from tests.attacks.lying import everybody

FINGERPRINTING = RoundPhase.FINGERPRINTING


def tell_with_mails(world, version, change):
    """As `tell`, and each silo's share mails are `change(silo, mails)`."""
    honest = version.mails_to
    version.mails_to = lambda silo: change(silo, list(honest(silo)))
    world.tell(everybody(version, FINGERPRINTING))


def refused(world, silo, why):
    assert world.states()[silo] == "Refused"
    assert why in world.why(silo)
    assert world.said(silo, Consent) == []


def test_a_mail_to_another_silo(keyed):
    version = KeyedVersion(keyed)

    def readdress(silo, mails):
        to_north = version.updates["south"].mails[FOUR.index("north")]
        return [mail.model_copy(update={"sealed": to_north}) if mail.sender == "south" else mail for mail in mails]

    tell_with_mails(keyed, version, readdress)
    refused(keyed, "east", "mail from south: is not the one that was signed")
    assert keyed.states()["north"] == "Fingerprinted", "who is shown its own mail goes on"


def test_one_silos_mails_under_anothers_name(keyed):
    version = KeyedVersion(keyed)

    def swap(_silo, mails):
        names = {"south": "north", "north": "south"}
        return [mail.model_copy(update={"sender": names.get(mail.sender, mail.sender)}) for mail in mails]

    tell_with_mails(keyed, version, swap)
    refused(keyed, "east", "are not the 4 that were signed")


def test_a_mail_of_the_aggregators_own_making(keyed):
    version = KeyedVersion(keyed)

    def forge(_silo, mails):
        made_up = tuple(bytes(len(mails[0].sealed)) for _ in FOUR)
        return [mails[0].model_copy(update={"sealed": made_up[0], "digests": mail_digests(made_up)}), *mails[1:]]

    tell_with_mails(keyed, version, forge)
    refused(keyed, "south", "are not the 4 that were signed")


def test_a_mail_of_an_earlier_round(four, tmp_path):
    world = four.copy_to(tmp_path / "world")
    world.begin()
    world.hold(RoundPhase.COLLECTING)
    world.run(until=lambda: len(world.ciphertexts()) == 4)
    old = world.ciphertexts()
    world.lies.clear()
    world.run(until=lambda: world.rounds()[-1].round == 2 and world.rounds()[-1].phase is RoundPhase.COLLECTING)
    world.hold(RoundPhase.COLLECTING)
    world.run(until=lambda: len(world.ciphertexts(2)) == 4)
    version = KeyedVersion(world, number=2)

    def replay(silo, mails):
        sealed = old["south"].mails
        stale = wire.ShareMail(sender="south", digests=mail_digests(sealed), sealed=sealed[FOUR.index(silo)])
        return [stale if mail.sender == "south" else mail for mail in mails]

    honest = version.mails_to
    version.mails_to = lambda silo: replay(silo, list(honest(silo)))
    world.tell(everybody(version, FINGERPRINTING))
    assert world.states(2)["east"] == "Refused"
    assert "are not the 4 that were signed" in world.why("east", 2)


@pytest.mark.parametrize("signer", ["the victim", "the aggregator"])
def test_a_key_of_the_aggregator_in_the_place_of_a_silos(four, tmp_path, signer):
    """What MITM takes: with it, shares to `south` would be the aggregator's to read. Nobody deals to such joins."""
    world = four.copy_to(tmp_path / "world")
    world.begin()
    own = MailKey.generate().public_bytes.hex()

    def substitute(_silo, view):
        joins = []
        for join in view.joins:
            statement = read(join, KeyedRoundJoin)
            if statement.silo == "south":
                forged = statement.model_copy(update={"share_key": own})
                signature = join.signature if signer == "the victim" else world.sign(forged).signature
                joins.append(Signed(forged.body(), signature))
            else:
                joins.append(join)
        return view.model_copy(update={"joins": tuple(joins)})

    world.show_round(substitute)
    for _ in range(6):
        world.turn()
    assert set(world.states().values()) == {"Joined"}, "nobody made a key, let alone trained"
    assert all("signature is not south's" in str(world.complaints[name]) for name in FOUR)
    assert world.ciphertexts() == {}
