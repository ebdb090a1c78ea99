"""A real aggregator over real mutual TLS, with scripted silos: a whole job, and everything a silo can do wrong."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cloister import wire
from cloister.wire import JobPhase, RoundPhase

from aggregator import coordination
from aggregator.archive import Archive
from aggregator.coordinator import CoordinatorDesk
from aggregator.renewal import renew_own
from aggregator.server import open_store, running
from aggregator.tables import LEDGER
from certs.names import Role
from certs.verify import Kind
from certs.wallet import Wallet
from privacy.budget import RoundKey
from privacy.ckks.layout import Layout, add_into, chunk_leaf, chunks_root
from privacy.envelope import UpdateHeader
from privacy.errors import ConfigError, ProtocolError, Refused
from privacy.ledger.codec import decode_entry
from privacy.record import RoundRecord, check_record
from privacy.statement import Signed, read
from privacy.transcript import RoundCommit
from runtime.ledger_store import Ledger
from tests.scripted import (
    NAMES,
    Cast,
    FakeUpdate,
    ScriptedSilo,
    data_task,
    enrol,
    found_aggregator,
    invite,
    make_cast,
    rehearsal_plan,
)


@pytest.fixture(name="cast")
def _cast(tmp_path: Path):
    """Three enrolled silos, one submitted job of two chunks an update."""
    state = found_aggregator(tmp_path / "aggregator")
    with running(state):
        cast = make_cast(tmp_path, state, task={"kind": "rehearsal", "values": 250_000, "update_range": 1.0}, rounds=2)
        with cast.coordinator() as coordinator:
            coordinator.submit(cast.write_job(tmp_path / "job"))
        yield cast
        cast.close()


def collect(cast: Cast, number: int = 1) -> None:
    """All joined: the round takes updates."""
    for silo in cast.all:
        silo.join_round(number)


def test_a_whole_job(cast: Cast, tmp_path: Path) -> None:
    cast.deal()
    for number in (1, 2):
        collect(cast, number)
        updates = {name: cast.update_of(name, number) for name in NAMES}
        for silo in cast.all:
            silo.submit(updates[silo.name], number)
        cast.fingerprint(number)
        seeds, residues = cast.all[0].sum(number)
        assert seeds == {name: update.seeds for name, update in updates.items()}
        assert residues == added(updates.values(), cast.plan.values)
        for silo in cast.all:
            silo.consent(number)
        for silo in cast.all:
            silo.applied(number, b"%d" % number * 32)
    status = cast.status()
    assert (status.phase, status.rounds_published) == (JobPhase.FINISHED, 2)
    assert cast.all[1].job_view().opened_rounds == (1, 2)
    with cast.coordinator() as coordinator:
        first, second = coordinator.rounds(cast.plan.digest())
        record = RoundRecord.decode(coordinator.transcript(cast.plan.digest(), 2))
    assert first.members == second.participants == NAMES
    assert first.bytes_received > 3 * Layout(250_000).upload_bytes
    assert second.aggregation_seconds > 0
    assert set(check_record(record).adapters.values()) == {(b"2" * 32).hex()}


def added(updates, values: int) -> bytes:
    total = Layout(values).empty_sum()
    for update in updates:
        add_into(total, np.frombuffer(b"".join(update.chunks), "<u8").astype(np.uint64))
    return total.tobytes()


def test_two_of_three_are_enough(cast: Cast) -> None:
    cast.deal()
    collect(cast)
    one, two, three = cast.all
    one.submit(cast.update_of(one.name))
    three.withdraw()
    two.submit(cast.update_of(two.name))
    found = three.round()
    assert found.phase is RoundPhase.FINGERPRINTING
    assert [member.silo for member in read(found.commit, RoundCommit).members] == [one.name, two.name]
    cast.fingerprint()
    assert three.round().phase is RoundPhase.COMMITTED
    three.consent()
    two.consent()
    assert one.round().phase is RoundPhase.RELEASING
    assert three.sum()[0].keys() == {one.name, two.name}


def test_a_silo_that_signs_another_adapter_afterwards_spoils_no_record(cast: Cast) -> None:
    """Of a round that is published: what the others signed stays provable."""
    cast.deal()
    collect(cast)
    one, two, three = cast.all
    for silo in cast.all:
        silo.submit(cast.update_of(silo.name))
    cast.fingerprint()
    one.consent()
    two.consent()
    one.applied()
    two.applied()
    assert one.round().phase is RoundPhase.PUBLISHED
    three.applied(adapter=b"x" * 32)
    assert cast.status().phase is JobPhase.STOPPED
    store = open_store(cast.state, cast.state.load())
    with store.reading() as tx:
        record = Archive(tx.connection).transcript(RoundKey(cast.plan.digest().hex(), 1))
    store.close()
    assert record is not None
    assert check_record(RoundRecord.decode(record)).adapters == dict.fromkeys((one.name, two.name), (b"n" * 32).hex())


def test_repeats_change_nothing_and_contradictions_are_named(cast: Cast) -> None:
    cast.deal()
    for silo in cast.all:
        silo.join_job()
        silo.join_round()
        silo.join_round()
    one, two, three = cast.all
    update = cast.update_of(one.name)
    header = one.submit(update)
    one.send([wire.UpdatePart(header=header)])  # a resend is answered before its bytes are sent again
    with pytest.raises(ProtocolError, match=r"header for round 1 by silo-a.*equivocation"):
        one.submit(cast.update_of(two.name))
    with pytest.raises(ProtocolError, match="has submitted its update"):
        one.withdraw()
    two.submit(cast.update_of(two.name))
    two.submit(cast.update_of(two.name))
    three.submit(cast.update_of(three.name))
    cast.fingerprint()
    one.fingerprint()
    with pytest.raises(ProtocolError, match="it is COMMITTED and takes no fingerprint of silo-a"):
        one.fingerprint(value="00" * 40)
    for silo in cast.all:
        silo.consent()
        silo.consent()
    one.applied()
    one.applied()
    with pytest.raises(ProtocolError, match=r"applied for round 1 by silo-a.*equivocation"):
        one.applied(adapter=b"x" * 32)
    assert cast.status().phase is JobPhase.RUNNING


def other(silo: ScriptedSilo, update: FakeUpdate) -> list[wire.UpdatePart]:
    return [wire.UpdatePart(header=silo.header(update)), *silo.parts(update)]


MALFORMED = {
    "truncated chunk": (
        lambda silo, update: [*other(silo, update)[:-1], wire.UpdatePart(residues=update.chunks[-1][:-8])],
        r"residue chunk 1: is truncated",
    ),
    "missing chunk": (lambda silo, update: other(silo, update)[:-1], "1 of 2 residue chunks came"),
    "oversized chunk": (
        lambda silo, update: [*other(silo, update)[:-1], wire.UpdatePart(residues=update.chunks[-1] + bytes(8))],
        r"residue chunk 1: is oversized",
    ),
    "one chunk too many": (
        lambda silo, update: [*other(silo, update), wire.UpdatePart(residues=update.chunks[-1])],
        "residue chunk 2",
    ),
    "out of order": (
        lambda silo, update: [
            *other(silo, update)[:-2],
            wire.UpdatePart(residues=update.chunks[1]),
            wire.UpdatePart(residues=update.chunks[0]),
        ],
        "residue chunk 0: is truncated",
    ),
    "altered": (
        lambda silo, update: [
            *other(silo, update)[:-1],
            wire.UpdatePart(residues=bytes(8) + update.chunks[1][8:]),
        ],
        r"not those of the signed header \(residues_root\)",
    ),
    "not reduced": (
        lambda silo, update: [
            *other(silo, update)[:-1],
            wire.UpdatePart(residues=b"\xff" * 8 + update.chunks[1][8:]),
        ],
        "residue 0 is not reduced modulo p",
    ),
    "wrong seeds": (
        lambda silo, update: [
            wire.UpdatePart(header=silo.header(update)),
            wire.UpdatePart(seeds=bytes(len(update.seeds))),
            wire.UpdatePart(residues=update.chunks[0]),
        ],
        r"seeds: are not those of the signed header",
    ),
    "too few seeds": (
        lambda silo, update: [
            wire.UpdatePart(header=silo.header(update)),
            wire.UpdatePart(seeds=update.seeds[:-1]),
            wire.UpdatePart(residues=update.chunks[0]),
        ],
        "seeds: are truncated",
    ),
    "too many seeds": (
        lambda silo, update: [wire.UpdatePart(header=silo.header(update)), wire.UpdatePart(seeds=update.seeds + b"x")],
        "seeds: are oversized",
    ),
    "seeds after residues": (
        lambda silo, update: [*other(silo, update)[:-1], wire.UpdatePart(seeds=b"x")],
        "seeds: came after residues",
    ),
    "no header": (lambda silo, update: silo.parts(update), "does not begin with its header"),
    "two headers": (
        lambda silo, update: [wire.UpdatePart(header=silo.header(update))] * 2,
        "has two headers",
    ),
    "wrong key": (
        lambda silo, update: [wire.UpdatePart(header=silo.header(update, key_commitment="0" * 64))],
        "was sealed under another key than the deal's",
    ),
    "wrong length": (
        lambda silo, update: [wire.UpdatePart(header=silo.header(update, values=5))],
        "covers 5 values; the plan has 250000",
    ),
    "another context": (
        lambda silo, update: [wire.UpdatePart(header=silo.header(update, ctx="0" * 64))],
        "in another context",
    ),
    "by somebody else": (
        lambda silo, update: [wire.UpdatePart(header=silo.header(update, silo="silo-b"))],
        "is by silo-b, and the caller is silo-a",
    ),
    "a round that never was": (
        lambda silo, update: [wire.UpdatePart(header=silo.header(update, round=9))],
        "round 9 of job rehearsal: was never announced",
    ),
}  # fmt: skip


def test_a_malformed_update_costs_the_round_nothing_but_its_silo(cast: Cast) -> None:
    cast.deal()
    collect(cast)
    bad = cast.silos["silo-a"]
    update = cast.update_of("silo-a")
    for what, (parts, message) in MALFORMED.items():
        with pytest.raises(ProtocolError, match=message):
            bad.send(parts(bad, update))
        spool = list((cast.state.blobs / cast.plan.digest().hex() / "1").iterdir())
        assert spool == [], what
    good = {name: cast.update_of(name) for name in ("silo-b", "silo-c")}
    for name, each in good.items():
        cast.silos[name].submit(each)
    bad.withdraw()
    cast.fingerprint()
    seeds, residues = cast.silos["silo-b"].sum()
    assert seeds.keys() == {"silo-b", "silo-c"}
    assert residues == added(good.values(), cast.plan.values)


def test_replayed_and_altered_headers_are_refused(cast: Cast) -> None:
    cast.deal()
    collect(cast)
    first = cast.silos["silo-a"].header(cast.update_of("silo-a"))
    for silo in cast.all:
        silo.submit(cast.update_of(silo.name))
    cast.fingerprint()
    for silo in cast.all:
        silo.consent()
    for silo in cast.all:
        silo.applied()
    collect(cast, 2)
    silo = cast.silos["silo-a"]
    altered = Signed(read(first, UpdateHeader).model_copy(update={"round": 2}).body(), first.signature)
    with pytest.raises(ProtocolError, match="the signature is not silo-a's"):
        silo.send([wire.UpdatePart(header=altered), *silo.parts(cast.update_of("silo-a"))])
    old_ctx = silo.header(cast.update_of("silo-a"), 2, ctx=silo.ctx(1).digest().hex())
    with pytest.raises(ProtocolError, match="bound to round 2 in another context"):
        silo.send([wire.UpdatePart(header=old_ctx)])
    silo.send([wire.UpdatePart(header=first)])  # the old header for the old round: known, changes nothing
    assert silo.round(2).headers == ()


def test_who_may_ask_what(cast: Cast, tmp_path: Path) -> None:
    stranger_wallet = enrol(tmp_path / "silo-d", invite(cast.state, "silo-d"))
    stranger = ScriptedSilo("silo-d", stranger_wallet, cast.all[0].address, cast.plan)
    for ask in (stranger.job_view, stranger.join_job, stranger.round):
        with pytest.raises(Refused, match="silo-d is not in its roster"):
            ask()
    forged = ScriptedSilo("silo-a", stranger_wallet, cast.all[0].address, cast.plan)
    with pytest.raises(ProtocolError, match="is by silo-a, and the caller is silo-d"):
        forged.join_job()
    auditor = ScriptedSilo(
        "auditor", enrol(tmp_path / "auditor", invite(cast.state, "auditor", Role.AUDITOR)), stranger.address, cast.plan
    )
    with pytest.raises(Refused, match="the role auditor may not make it"):
        auditor.join_job()
    for silo in (stranger, forged, auditor):
        silo.close()


def test_a_silo_outside_the_roll_opens_no_sum(cast: Cast) -> None:
    one, two, three = cast.all
    three.refuse_job()
    cast.deal(one.name, two.name)
    for silo in (one, two):
        silo.join_round()
    for silo in (one, two):
        silo.submit(cast.update_of(silo.name))
    with pytest.raises(Refused, match="silo-c is not in the job's roll"):
        three.sum()
    with pytest.raises(ProtocolError, match="silo-c is not a participant of round 1"):
        three.consent(transcript=b"z" * 32)


def test_different_adapters_stop_the_job(cast: Cast) -> None:
    cast.deal()
    collect(cast)
    for silo in cast.all:
        silo.submit(cast.update_of(silo.name))
    cast.fingerprint()
    for silo in cast.all:
        silo.consent()
    cast.all[0].applied()
    cast.all[1].applied(adapter=b"x" * 32)
    status = cast.status()
    assert status.phase is JobPhase.STOPPED
    assert "adapter digests differ after round 1: silo-b" in status.reason
    assert cast.all[2].job_view().opened_rounds == (1,)
    assert cast.all[2].sum()[1]


def test_consent_to_another_transcript_is_refused(cast: Cast) -> None:
    cast.deal()
    collect(cast)
    with pytest.raises(ProtocolError, match="is COLLECTING and takes no consent"):
        cast.all[0].consent(transcript=b"z" * 32)
    for silo in cast.all:
        silo.submit(cast.update_of(silo.name))
    with pytest.raises(ProtocolError, match="is FINGERPRINTING and takes no consent"):
        cast.all[0].consent(transcript=b"z" * 32)
    cast.fingerprint()
    with pytest.raises(ProtocolError, match="silo-a consents to another transcript of round 1"):
        cast.all[0].consent(transcript=b"z" * 32)
    cast.all[0].consent()


def test_follow_tells_every_change_and_says_who_is_connected(cast: Cast) -> None:
    one, two, three = cast.all
    notices = one.follow()
    assert next(notices).job_phase is JobPhase.JOINING
    assert [silo.connected for silo in cast.status().silos] == [True, False, False]
    for silo in (one, two, three):
        silo.join_job()
    assert next(n for n in notices if n.job_phase is not JobPhase.JOINING).job_phase is JobPhase.DEALING
    for silo in (two, three):
        next(silo.follow())
    with cast.coordinator() as coordinator:
        changes = coordinator.watch()
        assert [silo.connected for silo in next(changes).silos] == [True, True, True]
        three.leave()
        assert [silo.connected for silo in next(changes).silos] == [True, True, False]
        coordinator.cancel(cast.plan.digest())
        assert next(status for status in changes if status.phase.closed).phase is JobPhase.CANCELLED
    assert next(n for n in notices if n.job_phase.closed).job_phase is JobPhase.CANCELLED
    assert next(three.follow()).job_phase is JobPhase.CANCELLED


def test_the_aggregators_own_ledger_has_every_round(cast: Cast) -> None:
    cast.deal()
    collect(cast)
    for silo in cast.all:
        silo.submit(cast.update_of(silo.name))
    cast.fingerprint()
    for silo in cast.all:
        silo.consent()
    for silo in cast.all:
        silo.applied()
    collect(cast, 2)
    with cast.coordinator() as coordinator:
        coordinator.cancel(cast.plan.digest())
    store = open_store(cast.state, cast.state.load())
    with store.reading() as tx:
        ledger = Ledger(tx.connection, LEDGER)
        ledger.check()
        first, second = (decode_entry(body) for body in ledger.entries())
        assert len(ledger.notes()) == 2
    store.close()
    assert (first.outcome, first.members) == ("published", NAMES)
    assert first.adapter_after_sha256 == (b"n" * 32).hex()
    assert (second.outcome, second.reason) == ("aborted", "the coordinator cancelled the job")


def test_submit_refuses_what_cannot_be_run(cast: Cast, tmp_path: Path) -> None:
    with cast.coordinator() as coordinator:
        with pytest.raises(ProtocolError, match="was submitted before"):
            coordinator.submit(tmp_path / "job")
        (tmp_path / "job" / "adapter.safetensors").write_bytes(b"weights")
        with pytest.raises(Refused, match="is a rehearsal and takes no adapter"):
            coordinator.submit(tmp_path / "job")
        with pytest.raises(ConfigError, match="is no job here; there are: rehearsal"):
            coordinator.find("rehersal")
        with pytest.raises(ProtocolError, match="job 000000000000: is not known here"):
            coordinator.rounds(bytes(32))
        with pytest.raises(ProtocolError, match="has no commit, so there is no transcript"):
            coordinator.transcript(cast.plan.digest(), 1)
    wallets = {name: silo.wallet for name, silo in cast.silos.items()}
    own = Wallet(cast.state.wallet)
    swapped = wallets | {"silo-a": wallets["silo-b"], "silo-b": wallets["silo-a"]}
    folder = tmp_path / "swapped"
    folder.mkdir()
    (folder / "plan.json").write_bytes(rehearsal_plan(swapped, own).encode())
    with cast.coordinator() as coordinator, pytest.raises(Refused, match="another identity key for silo-a"):
        coordinator.submit(folder)
    (folder / "plan.json").write_bytes(json.dumps({"version": "cloister/v1"}).encode())
    with cast.coordinator() as coordinator, pytest.raises(ProtocolError, match="job plan"):
        coordinator.submit(folder)


def test_the_starting_adapter_is_the_pinned_one_and_is_served_whole(cast: Cast, tmp_path: Path) -> None:
    artifact, folder = bytes(range(256)) * 5000, tmp_path / "data-job"
    wallets = {name: silo.wallet for name, silo in cast.silos.items()}
    plan = rehearsal_plan(wallets, Wallet(cast.state.wallet), name="data", **data_task(artifact))
    folder.mkdir()
    (folder / "plan.json").write_bytes(plan.encode())
    with cast.coordinator() as coordinator:
        with pytest.raises(Refused, match=r"has the digest e3b0c44298fc1c14\.\.\., and the plan pins"):
            coordinator.submit(folder)
        (folder / "adapter.safetensors").write_bytes(artifact)
        assert coordinator.submit(folder) == plan.digest()
    silo = cast.all[0]
    for job, expected in ((plan.digest(), artifact), (cast.plan.digest(), b"")):
        answer = silo.stub.FetchArtifact(wire.FetchArtifactRequest(job=job).encode(), timeout=10)
        assert b"".join(message.chunk for message in answer) == expected
    assert sorted(path.name for path in cast.state.blobs.iterdir()) == [plan.digest().hex()]


def test_a_starting_adapter_that_is_too_large_is_refused(tmp_path: Path) -> None:
    state = found_aggregator(tmp_path / "aggregator", max_artifact_bytes=1000)
    with running(state):
        cast = make_cast(tmp_path, state, **data_task(bytes(1001)))
        folder = cast.write_job(tmp_path / "job")
        (folder / "adapter.safetensors").write_bytes(bytes(1001))
        with cast.coordinator() as coordinator, pytest.raises(Refused, match="larger than 1000 bytes"):
            coordinator.submit(folder)
        assert list(state.blobs.iterdir()) == []
        cast.close()


def test_certificates_are_renewed_by_silos_and_by_the_aggregator_itself(cast: Cast) -> None:
    silo = cast.all[0]
    request = wire.RenewCertificateRequest(tls_csr_pem=silo.wallet.renewal_request())
    answer = wire.RenewedCertificate.decode(silo.call("RenewCertificate", request))
    before = silo.wallet.leaf(Kind.TLS).serial
    silo.wallet.install_renewal(answer.tls_certificate_pem, datetime.now(UTC))
    assert silo.wallet.leaf(Kind.TLS).serial != before
    own, coordinator = Wallet(cast.state.wallet), Wallet(cast.state.coordinator)
    serials = own.leaf(Kind.TLS).serial, coordinator.leaf(Kind.TLS).serial
    renew_own(cast.state, datetime.now(UTC))
    assert (own.leaf(Kind.TLS).serial, coordinator.leaf(Kind.TLS).serial) == serials
    renew_own(cast.state, datetime.now(UTC) + timedelta(days=21))
    assert own.leaf(Kind.TLS).serial != serials[0]
    assert coordinator.leaf(Kind.TLS).serial != serials[1]


def test_the_committed_root_is_that_of_the_sum_which_is_served(cast: Cast) -> None:
    cast.deal()
    collect(cast)
    for silo in cast.all:
        silo.submit(cast.update_of(silo.name))
    cast.fingerprint()
    found = cast.all[0].round()
    _, residues = cast.all[0].sum()
    layout = Layout(cast.plan.values)
    starts = [sum(layout.chunk_bytes(i) for i in range(k)) for k in range(layout.chunks)]
    leaves = [chunk_leaf(residues[at : at + layout.chunk_bytes(k)]) for k, at in enumerate(starts)]
    assert read(found.commit, RoundCommit).sum_root == chunks_root(leaves).hex()


def test_lists_of_any_length_arrive_whole(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "PAGE_BYTES", 300)
    monkeypatch.setattr(CoordinatorDesk, "statuses", lambda desk: 20 * desk_statuses(desk))
    cast.deal()
    with cast.coordinator() as coordinator:
        assert len(coordinator.jobs()) == 20
        assert [each.round for each in coordinator.rounds(cast.plan.digest())] == [1]
        assert [member.name for member in coordinator.members() if member.role == Role.SILO] == list(NAMES)
        messages = list(coordinator._stub.ListJobs(wire.ListJobsRequest().encode(), timeout=20))
    assert len(messages) > 1
    assert max(message.ByteSize() for message in messages) < 1000


desk_statuses = CoordinatorDesk.statuses
