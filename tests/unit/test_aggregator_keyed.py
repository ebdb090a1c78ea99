"""Rounds with one-time keys: a second runner stands where the first does; what is kept, and who gets what."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cloister.wire import RoundPhase

from aggregator import job as jobs
from aggregator import round_states as states
from aggregator.blobs import Blobs
from aggregator.coordinator import CoordinatorDesk
from aggregator.job_events import CoordinatorCancelled
from aggregator.reading import ReadingDesk
from aggregator.record import round_record
from privacy.ckks.layouts import layout_of
from privacy.envelope import KeyedUpdateHeader
from privacy.errors import ProtocolError, Refused
from privacy.keyed import Release, check_round_roll, mail_digests
from privacy.record import RoundRecord, check_record, check_sum
from privacy.statement import Signed
from privacy.transcript import RoundJoin
from tests.scripted import FakeRelease, FakeUpdate, KeyedCohort, fake_keyed_update, fake_release
from tests.unit.test_aggregator_rebuild import Office

FOUR = ("a", "b", "c", "d")
THREE = ("a", "b", "c")


class KeyedOffice(Office):
    """An office whose job has one-time keys, four silos, one colluder: three shares open a sum."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, KeyedCohort(*FOUR))

    @property
    def keyed(self) -> KeyedCohort:
        assert isinstance(self.cohort, KeyedCohort)
        return self.cohort

    def round_join(self, name: str) -> Signed:
        return self.keyed.round_join(name, self.ctx())

    def update(self, name: str) -> FakeUpdate:
        return fake_keyed_update(self.plan, len(self.ctx().participants), FOUR.index(name))

    def header(self, name: str, **changes: str) -> Signed:
        update, ctx = self.update(name), self.ctx()
        joins = [self.keyed.round_join(each, ctx) for each in ctx.participants]
        roll = check_round_roll(self.plan, ctx, joins).digest.hex()
        fields = {"residues_root": update.root, "mails": update.mails_digest, "roll": roll, "values": self.plan.values}
        return self.cohort.sign(KeyedUpdateHeader.model_validate({**self.cohort.bound(name, ctx), **fields, **changes}))

    def answer(self, named: Mapping[str, str], *names: str) -> None:
        """Fingerprints that hold; a silo given in `named` names members, a letter each."""
        for name in names:
            self.say("fingerprint", name, self.signed_fingerprint(name, unopened=tuple(named.get(name, ""))))

    def release_of(self, name: str, receivers: int = 4) -> FakeRelease:
        return fake_release(self.plan, receivers, FOUR.index(name))

    def signed_release(self, name: str, **changes: Any) -> Signed:
        fields = {**self.cohort.bound(name, self.ctx()), **self.release_of(name).fields}
        return self.cohort.sign(Release.model_validate({**fields, "transcript": self.transcript().hex(), **changes}))

    def release(self, *names: str) -> None:
        for name in names:
            released = self.release_of(name)
            self.say("release", name, self.signed_release(name), released.body, b"".join(released.mails))

    def certify(self, *absent: str) -> None:
        """As far as SHARING."""
        here = [name for name in FOUR if name not in absent]
        self.join_round(*here)
        self.submit(*here)
        self.answer({}, *here)
        self.consent(*here[:3])
        assert isinstance(self.live.round, states.Sharing)

    @property
    def blobs(self) -> Blobs:
        return self.runner.blobs

    def suffixes(self, number: int = 1) -> list[str]:
        folder = self.blobs.sum(self.job, number, 1).parent
        return sorted(path.suffix for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(name="office")
def _office(tmp_path: Path) -> KeyedOffice:
    """Round 1 is announced to all four."""
    office = KeyedOffice(tmp_path)
    office.join(*FOUR)
    assert isinstance(office.live.state, jobs.Gathering), "nobody deals a key"
    office.connect(*FOUR)
    return office


@pytest.fixture(name="sharing")
def _sharing(office: KeyedOffice) -> KeyedOffice:
    office.certify()
    return office


def waits_for(office: KeyedOffice) -> str:
    return CoordinatorDesk(office.runner, max_artifact_bytes=1).statuses()[0].reason


def record_of(office: KeyedOffice, number: int) -> RoundRecord:
    with office.runner.store.reading() as tx:
        row = tx.job(office.job)
        assert row is not None
        return round_record(tx, row, office.plan, number)


def test_every_step_of_a_job(office: KeyedOffice) -> None:
    for number in (1, 2):
        office.join_round(*FOUR)
        office.submit("a", "d")
        office.withdraw("b")
        office.submit("c")
        assert isinstance(office.live.round, states.Fingerprinting)
        office.answer({"d": "a"}, "d", "a", "c")
        assert office.live.round.members == ("a", "c", "d")
        office.consent("b", "a")
        assert isinstance(office.live.round, states.Committed)
        office.consent("d")
        assert isinstance(office.live.round, states.Sharing)
        office.release("a")
        assert "waits for 2 more sums of shares of round" in waits_for(office)
        assert "not yet from b, c, d" in waits_for(office)
        office.release("b")  # withdrew, and has shares of the members nevertheless
        office.consent("c")
        office.release("d")
        assert isinstance(office.live.round, states.Releasing)
        office.release("c")
        for name in FOUR:
            office.applied(name, b"%d" % number * 32)
        verdict = check_record(record_of(office, number))
        assert (verdict.released, verdict.transcript.commit.members) == (FOUR, ("a", "c", "d"))
        layout, path = layout_of(office.plan), office.blobs.sum(office.job, number, 1)
        check_sum(verdict, [path.read_bytes()])
        assert layout.chunks == 1
    assert isinstance(office.live.state, jobs.Finished)


def test_what_a_round_keeps_and_what_came_in_it(sharing: KeyedOffice) -> None:
    assert sharing.suffixes() == ["", *[".mails"] * 4, *[".residues"] * 4]
    with sharing.runner.store.reading() as tx:
        before = tx.bytes_by_silo(sharing.job)
    sharing.release(*THREE)
    with sharing.runner.store.reading() as tx:
        after = tx.bytes_by_silo(sharing.job)
    released, late, signed = sharing.release_of("a"), sharing.release_of("d"), sharing.signed_release("d")
    assert after["a"] - before["a"] > len(released.body) + len(b"".join(released.mails))
    assert after["d"] == before["d"]
    assert sharing.suffixes() == ["", *[".mails"] * 4, *[".release"] * 3, *[".residues"] * 4]
    for name in THREE:
        sharing.applied(name, b"1" * 32)
    assert sharing.suffixes() == ["", *[".release"] * 3]
    sharing.say("release", "d", signed, late.body, b"".join(late.mails))
    assert sharing.suffixes() == ["", *[".release"] * 4]
    again = ReadingDesk(sharing.restarted())
    assert [shown.body for shown in again.releases("d", sharing.job, 1)] == [sharing.release_of(n).body for n in FOUR]


def test_too_few_released_sums_leave_nothing_of_the_round(sharing: KeyedOffice) -> None:
    sharing.release("a", "d")
    with pytest.raises(ProtocolError, match=r"releases of round 1: there are none \(the round is SHARING\)"):
        ReadingDesk(sharing.runner).releases("a", sharing.job, 1)
    sharing.late()
    with sharing.runner.store.reading() as tx:
        row = tx.round(sharing.job, 1)
    assert row is not None
    assert (row.phase, row.certified) == (RoundPhase.ABORTED, False)
    assert row.reason == "2 sums of shares came of 3; none from b, c"
    assert sharing.suffixes() == []
    for read in (ReadingDesk(sharing.runner).releases, ReadingDesk(sharing.runner).sum):
        with pytest.raises(ProtocolError, match=r"\(the round is ABORTED\)"):
            read("a", sharing.job, 1)


def test_a_cancelled_job_has_opened_nothing_before_enough_was_released(sharing: KeyedOffice) -> None:
    sharing.release("a", "d")
    with sharing.runner.turn(sharing.job) as turn:
        turn.tell_job(CoordinatorCancelled())
    sharing.same_after_restart()
    assert ReadingDesk(sharing.runner).job("a", sharing.job).opened_rounds == ()
    assert sharing.suffixes() == []


def test_whom_two_of_four_name_is_left_out_also_after_a_restart(office: KeyedOffice) -> None:
    office.join_round(*FOUR)
    office.submit(*FOUR)
    office.answer({"a": "d", "b": "cd"}, "a", "b", "d")
    assert office.live.round.blamed == {"d"}
    office.answer({}, "c")
    assert (office.live.round.members, office.live.round.attempt) == (THREE, 2)
    assert not office.live.state.progress.absent
    office.answer({"b": "c"}, *THREE)  # one of four may lie
    assert isinstance(office.live.round, states.Committed)
    senders = [mail.sender for mail in ReadingDesk(office.runner).mails("d", office.job, 1)]
    assert senders == list(THREE), "who is in no sum needs shares of those who are"


@pytest.mark.parametrize("named", [("d", "a"), ("a", "a"), ("e",)])
def test_only_members_are_named_sorted_each_once(office: KeyedOffice, named: tuple[str, ...]) -> None:
    office.join_round(*FOUR)
    office.submit(*FOUR)
    with pytest.raises(ProtocolError, match="fingerprint: names mails that there are none of"):
        office.desk.fingerprint("a", office.signed_fingerprint("a", unopened=named))
    assert not office.live.round.answered


def test_a_group_join_is_none_and_a_copied_key_neither(office: KeyedOffice) -> None:
    plain = office.cohort.sign(RoundJoin.model_validate(office.cohort.bound("a", office.ctx())))
    with pytest.raises(ProtocolError, match="statement KeyedRoundJoin"):
        office.desk.join_round("a", plain)
    office.join_round("a")
    share, opening = office.keyed.round_keys["a", 1]
    for key, copied in (("share_key", share), ("open_key", opening), ("share_key", opening)):
        join = office.keyed.round_join("b", office.ctx(), **{key: copied.public_bytes.hex()})
        with pytest.raises(ProtocolError, match="join of b: has a key of a's"):
            office.desk.join_round("b", join)
    office.join_round("a", "b")
    assert office.live.round.joined == {"a", "b"}


def test_a_header_for_other_joins_is_refused(office: KeyedOffice) -> None:
    office.join_round(*FOUR)
    with pytest.raises(ProtocolError, match="update header: was made for other joins of this round"):
        office.desk.open_upload("a", office.header("a", roll="0" * 64))


def test_share_mails_are_those_to_the_caller_and_only_while_updates_are_staged(office: KeyedOffice) -> None:
    reading = ReadingDesk(office.runner)
    office.join_round(*FOUR)
    office.submit(*THREE)
    with pytest.raises(ProtocolError, match=r"share mails of round 1: there are none \(the round is COLLECTING\)"):
        reading.mails("a", office.job, 1)
    office.withdraw("d")
    for place, name in enumerate(FOUR):
        for mail, sender in zip(reading.mails(name, office.job, 1), THREE, strict=True):
            mails = office.update(sender).mails
            assert (mail.sender, mail.sealed, mail.digests) == (sender, mails[place], mail_digests(mails))
    office.answer({}, *THREE)
    office.consent(*THREE)
    office.release(*THREE)
    assert len(list(reading.mails("d", office.job, 1))) == 3
    for name in THREE:
        office.applied(name, b"1" * 32)
    with pytest.raises(ProtocolError, match=r"there are none \(the round is PUBLISHED\)"):
        reading.mails("d", office.job, 1)


def test_a_member_of_the_roll_that_is_no_participant_gets_releases_and_no_shares(office: KeyedOffice) -> None:
    office.join_round(*THREE)
    office.late()  # round 2 is announced without d
    assert office.ctx().participants == THREE
    office.certify("d")
    reading = ReadingDesk(office.runner)
    with pytest.raises(Refused, match="share mails of round 2: d is no participant"):
        reading.mails("d", office.job, 2)
    office.release(*THREE)
    for place, name in enumerate(FOUR):  # participants in order, then the others of the roll
        shown = list(reading.releases(name, office.job, 2))
        assert [each.mail for each in shown] == [office.release_of(silo).mails[place] for silo in THREE]
        assert [each.digests for each in shown] == [mail_digests(office.release_of(silo).mails) for silo in THREE]
        assert [each.release for each in shown] == [office.signed_release(silo) for silo in THREE]
    with pytest.raises(ProtocolError, match="d is not a participant of round 2"):
        office.release("d")


BAD_RELEASES = {
    "another transcript": ({"transcript": "0" * 64}, {}, "is for another transcript of round 1 than the certified one"),
    "another body": ({}, {"body": 1}, "comes with another body than was signed"),
    "a body that is too short": ({}, {"body": -1}, "comes with another body than was signed"),
    "altered mails": ({}, {"mails": 1}, "are not the 4 that were signed"),
    "mails that are too short": ({}, {"mails": -1}, "release, mails: has 4671 bytes, expected 4672"),
    "another context": ({"ctx": "0" * 64}, {}, "bound to round 1 in another context"),
    "somebody else's": ({"silo": "b"}, {}, "is by b, and the caller is a"),
}  # fmt: skip


def altered(data: bytes, how: int) -> bytes:
    return data[:-1] if how < 0 else data[:-1] + bytes([data[-1] ^ how])


@pytest.mark.parametrize("what", BAD_RELEASES)
def test_a_bad_release_leaves_nothing(sharing: KeyedOffice, what: str) -> None:
    changes, alter, why = BAD_RELEASES[what]
    released, before = sharing.release_of("a"), sharing.suffixes()
    body, mails = altered(released.body, alter.get("body", 0)), altered(b"".join(released.mails), alter.get("mails", 0))
    with pytest.raises(ProtocolError, match=why):
        sharing.desk.release("a", sharing.signed_release("a", **changes), body, mails)
    assert sharing.suffixes() == before
    sharing.release("a")


def test_a_release_of_a_wrong_size_is_refused_though_it_is_what_was_signed(sharing: KeyedOffice) -> None:
    released = sharing.release_of("a")
    longer = released.body + b"x"
    signed = sharing.signed_release("a", body_sha256=hashlib.sha256(longer).hexdigest())
    with pytest.raises(ProtocolError, match="release, body: has 8209 bytes, expected 8208"):
        sharing.desk.release("a", signed, longer, b"".join(released.mails))
    fewer = fake_release(sharing.plan, 3, 0)
    with pytest.raises(ProtocolError, match="release, mails: has 3504 bytes, expected 4672"):
        sharing.desk.release("a", sharing.signed_release("a", **fewer.fields), fewer.body, b"".join(fewer.mails))


def test_a_second_release_is_equivocation_and_the_first_stands(sharing: KeyedOffice) -> None:
    sharing.release("a")
    sharing.release("a")
    other = fake_release(sharing.plan, 4, 77)
    signed = sharing.signed_release("a", **other.fields)
    with pytest.raises(ProtocolError, match=r"release for round 1 by a: differs .*equivocation"):
        sharing.desk.release("a", signed, other.body, b"".join(other.mails))
    sharing.release("b", "c")
    bodies = [shown.body for shown in ReadingDesk(sharing.runner).releases("d", sharing.job, 1)]
    assert bodies == [sharing.release_of(name).body for name in THREE]
    assert sharing.suffixes().count(".release") == 3


def test_nothing_is_released_before_there_is_a_certificate_or_after_the_round_was_given_up(
    office: KeyedOffice,
) -> None:
    office.join_round(*FOUR)
    office.submit(*FOUR)
    office.answer({}, *FOUR)
    with pytest.raises(ProtocolError, match="round 1: is COMMITTED and takes no release of shares"):
        office.release("a")
    assert ".release" not in office.suffixes()
    office.consent(*THREE)
    signed, released = office.signed_release("a"), office.release_of("a")
    office.late()
    with pytest.raises(ProtocolError, match="round 1: is ABORTED and takes no release of shares"):
        office.desk.release("a", signed, released.body, b"".join(released.mails))
    assert office.suffixes() == []


def test_a_late_release_does_not_bring_a_forgotten_job_back(sharing: KeyedOffice) -> None:
    sharing.release(*THREE)
    signed, released = sharing.signed_release("d"), sharing.release_of("d")
    for name in THREE:
        sharing.applied(name, b"1" * 32)
    with sharing.runner.turn(sharing.job) as turn:
        turn.tell_job(CoordinatorCancelled())
    sharing.late()
    sharing.late()
    assert sharing.live.forgotten
    with pytest.raises(ProtocolError, match="takes no release of shares"):
        sharing.desk.release("d", signed, released.body, b"".join(released.mails))
    with pytest.raises(ProtocolError, match="releases of round 1: there are none"):
        ReadingDesk(sharing.runner).releases("a", sharing.job, 1)
    assert not sharing.blobs.job(sharing.job).exists()


def test_the_wire_has_no_seeds_where_there_are_none(sharing: KeyedOffice) -> None:
    parts = list(ReadingDesk(sharing.runner).sum("d", sharing.job, 1))
    assert [part.seeds for part in parts] == [None]
    assert parts[0].residues == sharing.blobs.sum(sharing.job, 1, 1).read_bytes()
