"""A silo's round when something fails that is nobody's lie, and lies about who takes part."""

import contextlib
import os

import numpy as np
import pytest
from cloister.wire import RoundPhase

from certs.names import Role
from privacy.errors import ConfigError, ProtocolError, Refused, Unavailable, VerificationError
from privacy.plan import RoundContext
from privacy.statement import Signed, read
from privacy.transcript import RoundJoin
from silo_agent import round_work
from silo_agent.peers import trust_peer
from tests.lone_silo import NAMES, NOW, LoneSilo


@pytest.fixture
def silo(tmp_path):
    return LoneSilo(tmp_path)


@pytest.fixture
def charged(tmp_path):
    return LoneSilo(tmp_path, charged=True)


# -- a round that is over ---------------------------------------------------------------------------------------------


def test_a_round_that_is_over_before_training_begins_costs_nothing(charged):
    charged.advance()
    charged.port.phase = RoundPhase.COLLECTING
    charged.interrupt("the round went on without this update")
    charged.advance()
    assert charged.state == "Withdrawn"
    assert charged.source.runs == 0
    assert charged.kinds[-1] == "refund"
    assert charged.budget.charged_epsilon == 0


@pytest.mark.parametrize("stays_busy", [True, False])
def test_who_waits_for_another_jobs_training_still_hears_that_its_round_is_over(charged, monkeypatch, stays_busy):
    monkeypatch.setattr(round_work, "WAIT_S", 0.001)
    charged.advance()
    charged.port.phase = RoundPhase.COLLECTING
    asked = []

    def interrupted(_number):
        asked.append(_number)
        if len(asked) == 3 and not stays_busy:
            round_work._TRAINING.release()
        return "the agent was stopped" if len(asked) > 3 else None

    charged.runner._work._interrupted = interrupted
    with round_work._TRAINING if stays_busy else contextlib.nullcontext():
        assert stays_busy or round_work._TRAINING.acquire(blocking=False)
        charged.advance()
    assert charged.source.runs == 0
    assert charged.kinds[-1] == "refund"
    assert round_work._TRAINING.acquire(blocking=False), "it is free for the next"
    round_work._TRAINING.release()


# -- a process that has yet to prepare ---------------------------------------------------------------------------------


def test_an_agent_that_was_started_again_prepares_before_it_reserves(charged):
    """Loading a model can take the process down: with a reservation, that would count as spent."""
    charged.advance()
    charged.port.phase = RoundPhase.COLLECTING

    def die():
        raise KeyboardInterrupt

    charged.source.prepare = die
    charged.start()
    with pytest.raises(KeyboardInterrupt):
        charged.advance()
    charged.source.prepare = lambda: None
    charged.start()
    assert charged.state == "Joined"
    assert "reserve" not in charged.kinds
    charged.advance()
    assert charged.state == "Submitted"
    assert charged.kinds[-3:] == ["reserve", "commit", "release"]


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("model folder", "is gone", "Restore it."),
        Refused("preflight", "the clipped sum is wrong", "Ask."),
        VerificationError("model weights", "are not the plan's", "Restore them."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_who_cannot_prepare_reserves_nothing_and_keeps_nobody_waiting(charged, error):
    def fail():
        raise error

    charged.source.prepare = fail
    charged.to_submitted()
    assert charged.state == "Withdrawn"
    assert charged.source.runs == 0
    assert "reserve" not in charged.kinds
    assert "withdraw_round" in charged.port.calls


def test_what_is_only_away_while_preparing_is_tried_again(charged):
    def away():
        raise Unavailable("model hub", "cannot be reached", "Wait.")

    charged.source.prepare = away
    with pytest.raises(Unavailable):
        charged.to_submitted()
    assert charged.state == "Joined"
    charged.source.prepare = lambda: None
    charged.advance()
    assert charged.state == "Submitted"


# -- a fault that is not the aggregator's ----------------------------------------------------------------------------


def sum_folder(silo):
    return silo.folder / "artifacts" / silo.job.hex() / "sum-1"


def test_a_sum_is_on_the_disk_before_it_counts_as_fetched(silo, monkeypatch):
    """What a power cut takes from a folder that was only renamed, not fsynced, would look like a lie."""
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    silo.to_submitted()
    silo.port.make_commit()
    monkeypatch.setattr(os, "fsync", fsync)
    silo.advance()
    draft = f"{sum_folder(silo)}.part"
    assert {f"{draft}/residues", *(f"{draft}/seeds-{n}" for n in range(3)), draft} <= set(synced)
    assert synced.index(str(sum_folder(silo).parent)) > synced.index(draft)


@pytest.mark.parametrize("fault", ["empty", "seeds gone", "altered"])
@pytest.mark.parametrize("when", ["before the consent", "before it is opened"])
def test_what_the_own_disk_lost_is_fetched_again_and_no_lie(silo, fault, when):
    def lose():
        folder = sum_folder(silo)
        if fault == "empty":
            os.truncate(folder / "residues", 0)
        elif fault == "seeds gone":
            (folder / "seeds-1").unlink()
        else:
            (folder / "seeds-1").write_bytes(bytes(32))

    silo.to_submitted()
    silo.port.make_commit()
    if when == "before the consent":
        silo.port.refuses["consent_round"] = Unavailable("consenting", "away", "Wait.")
    with contextlib.suppress(Unavailable):
        silo.advance()
    lose()
    silo.port.refuses.clear()
    silo.advance()
    silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    assert silo.state == "Applied"
    assert silo.port.calls.count("fetch_sum") == 2


def test_an_own_adapter_that_is_damaged_is_no_lie_either(silo):
    silo.to_consented()
    silo.port.certify(*NAMES)
    silo.runner._work.shelf._initial = lambda: np.ones(len(silo.zeros), np.float32)
    with pytest.raises(VerificationError, match="the file on disk is not the one"):
        silo.advance(opened=(1,))
    assert silo.state == "Certified"
    silo.start()
    silo.advance(opened=(1,))
    assert silo.state == "Applied"


ANSWERS = [
    ProtocolError("sum of round 1", "there is none (the round is ABORTED)", "Ask for the round (GetRound)."),
    ConfigError("fetching the sum", "the server answered UNIMPLEMENTED", "Compare the versions."),
    Refused("sum of round 1", "east is not in the job's roll", "Only its members open sums."),
    VerificationError("sum of round 1", "says the server", "Look."),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
@pytest.mark.parametrize("certified", [False, True])
def test_an_error_that_the_aggregator_answers_is_no_evidence(silo, answer, certified):
    silo.to_submitted()
    silo.port.make_commit()
    if certified:
        silo.port.certify("north", "west")
    silo.port.refuses["fetch_sum"] = answer
    with pytest.raises(type(answer)):
        silo.advance(opened=(1,) if certified else ())
    assert silo.state == "Fingerprinted"
    assert "refuse" not in silo.kinds
    silo.port.refuses.clear()
    if not certified:
        silo.advance()
        silo.port.certify(*NAMES)
    silo.advance(opened=(1,))
    assert silo.state == "Applied"


DOOR = [Unavailable("the caller's certificate", "is not valid yet", "Compare the clocks."), *ANSWERS[1:]]


@pytest.mark.parametrize("answer", DOOR, ids=lambda answer: type(answer).__name__)
@pytest.mark.parametrize("call", ["join_round", "submit_update", "send_fingerprint", "consent_round", "report_applied"])
def test_a_refusal_at_the_door_is_no_answer_to_what_was_said(charged, call, answer):
    """It is said again, and arrives, once the clock or the certificate is right."""

    def press_on(step):
        try:
            step()
        except type(answer):
            charged.port.refuses.clear()
            step()

    charged.port.refuses[call] = answer
    press_on(charged.advance)
    charged.port.phase = RoundPhase.COLLECTING
    press_on(charged.advance)
    charged.port.make_commit(ask=False)
    press_on(charged.advance)
    charged.port.show_fingerprints()
    press_on(charged.advance)
    charged.port.certify(*NAMES)
    press_on(lambda: charged.advance(opened=(1,)))
    assert not charged.port.refuses
    assert charged.state == "Applied"
    assert len(charged.port.joins) == len(charged.port.consents) == len(charged.port.applied) == 1
    assert charged.source.runs == 1


@pytest.mark.parametrize(("call", "ends_in"), [("join_round", "Joined"), ("submit_update", "Withdrawn")])
def test_a_statement_that_the_desk_refuses_is_done_with(silo, call, ends_in):
    silo.port.refuses[call] = ProtocolError("round 1", "it is ABORTED and takes no update", "Ask for the round.")
    silo.advance()
    if call == "submit_update":
        silo.port.phase = RoundPhase.COLLECTING
        silo.advance()
    silo.advance()
    assert silo.state == ends_in
    assert silo.port.calls.count(call) <= 1


# -- more lies -------------------------------------------------------------------------------------------------------


def silent(silo, *_):
    return ()


def double(silo, *joins):
    return (*joins, joins[0])


def torn(silo, *joins):
    return (*joins[1:], Signed(b"\xff\xfe", b"s" * 64))


def forged(silo, *joins):
    return (*joins[1:], silo.cohort.sign(read(joins[0], RoundJoin), by="west"))


def elsewhere(silo, *joins):
    other = RoundContext(silo.job, 1, b"x" * 32, NAMES)
    return (*joins[1:], silo.cohort.sign(RoundJoin.model_validate(silo.cohort.bound("north", other))))


@pytest.mark.parametrize("change", [silent, double, torn, forged, elsewhere])
def test_nothing_is_trained_before_every_participant_has_joined(charged, change):
    charged.advance()
    charged.port.phase = RoundPhase.COLLECTING
    charged.port.change_joins = lambda *joins: change(charged, *joins)
    with pytest.raises(ProtocolError):
        charged.advance()
    assert charged.state == "Joined"
    assert charged.source.runs == 0
    assert charged.budget.charged_epsilon == 0
    charged.port.change_joins = lambda *joins: joins
    charged.advance()
    assert charged.state == "Submitted"


@pytest.mark.parametrize("change", [silent, double, torn, forged, elsewhere])
def test_a_certified_round_without_its_joins_is_not_opened(silo, change):
    silo.to_consented()
    silo.port.certify(*NAMES)
    silo.port.change_joins = lambda *joins: change(silo, *joins)
    silo.advance(opened=(1,))
    assert silo.state == "Refused"
    assert not silo.port.applied


def test_a_lie_about_a_missed_round_keeps_no_other_round_from_going_on(silo):
    """Round 1 is opened from another adapter, it says; round 2, which this silo has sent an update to, goes on."""
    silo.port.ctx = silo.ctx = silo.cohort.ctx = RoundContext(silo.job, 2, silo.ctx.adapter_digest, NAMES)
    for phase in (RoundPhase.ANNOUNCED, RoundPhase.COLLECTING):
        silo.port.phase = phase
        silo.advance(current=2)
    assert silo.state_of(2) == "Submitted"
    silo.port.make_commit()
    silo.port.lies[1] = RoundContext(silo.job, 1, b"x" * 32, NAMES)
    with pytest.raises(ProtocolError, match="another global adapter"):
        silo.advance(opened=(1,), current=2)
    assert silo.state_of(2) == "Consented"


def test_the_mean_is_over_the_members_of_the_sum(silo):
    """Three take part, two are in the sum: the mean of their updates of 0.5 is 0.5, and not a third of their sum."""
    silo.source.fail_after = 1
    silo.to_submitted()
    silo.port.make_commit(members=("north", "west"), own=False)
    silo.advance()
    silo.port.certify("north", "west")
    silo.advance(opened=(1,))
    found = np.fromfile(silo.folder / "artifacts" / silo.job.hex() / "adapter-1.f32", "<f4")
    assert np.abs(found - 0.5).max() < 1e-4


def test_a_peer_whose_pin_is_another_by_now_keeps_the_silo_from_new_rounds(silo):
    with silo.home.store.writing() as tx:
        trust_peer(tx.connection, Role.SILO, "north", "abcd " * 15 + "abcd", NOW)
    with pytest.raises(Refused, match="pinned here is abcd"):
        silo.advance()
    assert silo.state == "Idle"
    assert not silo.port.joins
