"""Rounds with one-time keys over real mutual TLS: scripted silos seal nonsense, for the aggregator opens nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloister import wire
from cloister.wire import JobPhase, RoundPhase

from aggregator.server import running
from privacy.ckks.layouts import layout_of
from privacy.errors import ProtocolError, Refused
from privacy.keyed import check_mail, check_release
from privacy.record import RoundRecord, check_record, check_sum
from privacy.statement import read
from privacy.transcript import RoundCommit
from tests.scripted import FOUR, KEYED, Cast, ScriptedSilo, found_aggregator, make_cast

VALUES = 400_000  # two chunks


@pytest.fixture(name="cast")
def _cast(tmp_path: Path):
    """Four enrolled silos of whom one may collude, one submitted job."""
    state = found_aggregator(tmp_path / "aggregator")
    with running(state):
        task = {"kind": "rehearsal", "values": VALUES, "update_range": 1.0}
        cast = make_cast(tmp_path, state, FOUR, task=task, **KEYED)
        with cast.coordinator() as coordinator:
            coordinator.submit(cast.write_job(tmp_path / "job"))
        yield cast
        cast.close()


def certify(cast: Cast, *silos: ScriptedSilo) -> None:
    """As far as SHARING; of the sum are all of these."""
    for silo in silos:
        silo.join_round()
    for silo in silos:
        silo.submit(cast.update_of(silo.name))
    cast.fingerprint()
    for silo in silos[:3]:
        silo.consent()
    assert silos[0].round().phase is RoundPhase.SHARING


def chunks_of(residues: bytes, cast: Cast) -> list[bytes]:
    layout = layout_of(cast.plan)
    ends = np.cumsum([layout.chunk_bytes(index) for index in range(layout.chunks)]).tolist()
    return [residues[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def test_a_whole_round_and_a_late_release(cast: Cast) -> None:
    cast.deal()
    one, two, three, four = cast.all
    assert (cast.status().phase, one.job_view().deal) == (JobPhase.RUNNING, None)
    for silo in cast.all:
        silo.join_round()
    for silo in (one, two, three):
        silo.submit(cast.update_of(silo.name))
    four.withdraw()
    assert [member.silo for member in read(one.round().commit, RoundCommit).members] == list(FOUR[:3])
    mails = four.mails()
    for mail in mails:
        stated = cast.silos[mail.sender].updates[1].mails_digest
        check_mail(stated, mail.digests, 4, 3, mail.sealed, sender=mail.sender, step="consent")
    assert [mail.sender for mail in mails] == list(FOUR[:3])
    cast.fingerprint()
    seeds, residues = one.sum()
    for silo in (four, one, two):
        silo.consent()
    assert one.round().phase is RoundPhase.SHARING
    for silo in (one, two):
        silo.release()
        with pytest.raises(ProtocolError, match=r"releases of round 1: there are none \(the round is SHARING\)"):
            silo.releases()
    assert one.job_view().opened_rounds == ()
    four.release()
    assert one.round().phase is RoundPhase.RELEASING
    assert one.job_view().opened_rounds == (1,)
    assert [shown.body for shown in three.releases()] == [s.fake_release().body for s in (one, two, four)]
    three.release()
    check_releases(cast)
    for silo in cast.all:
        silo.applied()
    status = cast.status()
    assert (status.phase, status.rounds_published) == (JobPhase.FINISHED, 1)
    check_releases(cast)
    assert four.sum() == ({}, residues)
    assert seeds == {}
    with cast.coordinator() as coordinator:
        (row,) = coordinator.rounds(cast.plan.digest())
        record = RoundRecord.decode(coordinator.transcript(cast.plan.digest(), 1))
    assert row.bytes_received > 3 * layout_of(cast.plan).upload_bytes
    verdict = check_record(record)
    assert verdict.released == FOUR
    check_sum(verdict, chunks_of(residues, cast))


def check_releases(cast: Cast) -> None:
    """Everybody is shown all of them, each with its own mail."""
    for place, silo in enumerate(cast.all):
        shown = silo.releases()
        assert [each.body for each in shown] == [other.fake_release().body for other in cast.all]
        for each in shown:
            release = check_release(cast.plan, silo.ctx(), silo.transcript(), each.release, each.body)
            check_mail(release.mails, each.digests, 4, place, each.mail, sender=release.silo, step="open")


def test_a_release_with_altered_mails_is_refused(cast: Cast) -> None:
    cast.deal()
    certify(cast, *cast.all)
    one, two = cast.all[:2]
    good = one.fake_release()
    swapped = replace(good, mails=(good.mails[1], good.mails[0], *good.mails[2:]))
    with pytest.raises(ProtocolError, match="mails of silo-a: are not the 4 that were signed"):
        one.release(sent=swapped)
    with pytest.raises(ProtocolError, match="comes with another body than was signed"):
        one.release(sent=replace(good, body=bytes(len(good.body))))
    with pytest.raises(ProtocolError, match="release, mails: has 3504 bytes, expected 4672"):
        one.release(sent=replace(good, mails=good.mails[1:]))
    with pytest.raises(ProtocolError, match="is by silo-a, and the caller is silo-b"):
        two.release(silo="silo-a")
    assert one.round().releases == ()
    assert not list((cast.state.blobs / cast.plan.digest().hex() / "1").glob("*.release"))
    one.release()
    one.release()  # a retry of stored bytes
    with pytest.raises(ProtocolError, match=r"release for round 1 by silo-a.*equivocation"):
        one.release(sent=two.fake_release(), **two.fake_release().fields)
    assert len(one.round().releases) == 1


def test_who_is_no_participant_gets_no_share_mails_and_no_releases(cast: Cast) -> None:
    four = cast.silos["silo-d"]
    four.refuse_job()
    cast.deal(*FOUR[:3])
    certify(cast, *cast.all[:3])
    with pytest.raises(Refused, match="share mails of round 1: silo-d is no participant"):
        four.mails()
    with pytest.raises(ProtocolError, match="silo-d is not a participant of round 1"):
        four.release()
    for silo in cast.all[:3]:
        silo.release()
    with pytest.raises(Refused, match="releases of round 1: silo-d is not in the job's roll"):
        four.releases()
    assert len(cast.all[0].releases()) == 3


def test_a_copied_key_is_refused_and_costs_the_others_nothing(cast: Cast) -> None:
    cast.deal()
    one, two, three, four = cast.all
    one.join_round()
    share, opening = one.round_keys[1]
    for name, key in (("share_key", share), ("open_key", opening)):
        with pytest.raises(ProtocolError, match="join of silo-b: has a key of silo-a's"):
            two.join_round(**{name: key.public_bytes.hex()})
    certify(cast, one, two, three, four)


def test_updates_that_do_not_fit_the_suite_are_refused(cast: Cast) -> None:
    cast.deal()
    for silo in cast.all:
        silo.join_round()
    one = cast.all[0]
    update = cast.update_of(one.name)
    header = wire.UpdatePart(header=one.header(update))
    _, mails = update.attached
    for parts, why in (
        ([wire.UpdatePart(seeds=b"x" * 64)], "seeds: came, and an update of this suite has mails"),
        ([wire.UpdatePart(mails=mails[:-1]), wire.UpdatePart(residues=update.chunks[0])], "mails: are truncated"),
        ([wire.UpdatePart(mails=mails + b"x")], "mails: are oversized"),
        (
            [wire.UpdatePart(mails=mails[1:] + b"x"), wire.UpdatePart(residues=update.chunks[0])],
            r"mails: are not those of the signed header \(mails\)",
        ),
        (
            [wire.UpdatePart(mails=mails), wire.UpdatePart(residues=b"\xff" * len(update.chunks[0]))],
            "in row 0 of its block 0 is not reduced",
        ),
        ([wire.UpdatePart(mails=mails), wire.UpdatePart(residues=update.chunks[1])], "residue chunk 0: is truncated"),
    ):
        with pytest.raises(ProtocolError, match=why):
            one.send([header, *parts])
    assert list((cast.state.blobs / cast.plan.digest().hex() / "1").iterdir()) == []
    one.submit(update)


def test_two_of_four_that_could_not_open_a_silos_mails_leave_it_out(cast: Cast) -> None:
    cast.deal()
    one, two, three, four = cast.all
    for silo in cast.all:
        silo.join_round()
    for silo in cast.all:
        silo.submit(cast.update_of(silo.name))
    one.fingerprint(unopened=["silo-d"])
    two.fingerprint(unopened=["silo-c", "silo-d"])
    for silo in (three, four):
        silo.fingerprint()
    found = four.round()
    assert [member.silo for member in read(found.commit, RoundCommit).members] == list(FOUR[:3])
    with pytest.raises(ProtocolError, match="its sum is without the update of silo-d"):
        four.fingerprint()
    cast.fingerprint()
    assert four.round().phase is RoundPhase.COMMITTED
    four.consent()
