"""Witnesses among real silos and a real aggregator: who cosigns what, and which states are found to be old."""

import json
from datetime import timedelta

import pytest
from cloister import wire
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event

from aggregator.store import MemberRow
from aggregator.tables import LEDGER as AGGREGATORS_LEDGER
from aggregator.tables import WITNESS as AGGREGATORS
from certs.ca import CertificateAuthority
from certs.identity import fingerprint
from certs.names import Role
from certs.wallet import Wallet
from federation import ledger_cli
from privacy.errors import ProtocolError, Refused
from privacy.ledger.checkpoint import Checkpoint, parse_note, sign_checkpoint
from privacy.ledger.cosignature import cosign, cosignatures, with_lines
from privacy.ledger.entry import KeyEntry
from privacy.ledger.handed import HandedCosignature
from privacy.ledger.witness import RewrittenError
from runtime.console import run
from runtime.ledger_store import Ledger
from runtime.witness_store import WitnessBook
from silo_agent import cli, command
from silo_agent.peers import trust_peer, trusted_peers
from silo_agent.status import StatusBoard
from silo_agent.tables import LEDGER, WITNESS
from silo_agent.witnessing import counted, take_handed
from tests.pki import make_wallet
from tests.sim.witnesses import Silo, all_exchange, forget

ALL = frozenset(
    {
        "cloister/sim/silo/east",
        "cloister/sim/silo/north",
        "cloister/sim/silo/west",
        "cloister/sim/aggregator/aggregator",
    }
)


def test_everybody_cosigns_everybody(world, silos):
    all_exchange(silos)
    for name, silo in silos.items():
        assert silo.exchange() == ALL - {f"cloister/sim/silo/{name}"}
    for silo in silos.values():
        silo.append()
        silo.append()
    all_exchange(silos, 3)
    east = silos["east"]
    with east.home.store.writing() as tx:
        note = WitnessBook(tx.connection, WITNESS).with_cosignatures(tx.ledger.notes()[-1])
    keys = {witness: world_key(world, witness) for witness in ALL}
    assert {each.witness for each in cosignatures(note, keys)} == ALL - {"cloister/sim/silo/east"}
    assert note.split("\n")[1] == str(east.size)
    assert not any(silo.read(WitnessBook.contradictions) for silo in silos.values())


def world_key(world, witness):
    role, name = witness.split("/")[2:]
    return world.identity_key("aggregator" if role == "aggregator" else name)


def test_a_log_is_witnessed_only_by_those_who_pinned_it(world, silos):
    with silos["west"].home.store.writing() as tx:
        trust_peer(tx.connection, Role.SILO, "east", " ".join(["abcd"] * 16), world.now)
    all_exchange(silos, 3)
    assert silos["east"].exchange() == ALL - {"cloister/sim/silo/east", "cloister/sim/silo/west"}


def test_a_restored_backup_is_found_before_anything_is_signed(world, silos, tmp_path):
    all_exchange(silos)
    backup = silos["east"].copy(tmp_path / "backup")
    east = Silo(world, "east")
    east.append("after the backup")
    east.exchange()
    restored = Silo(world, "east", backup)
    signed = restored.notes()
    with pytest.raises(RewrittenError, match="was rolled back") as found:
        restored.exchange()
    restored.append("written by a steward who does not know")
    with pytest.raises(RewrittenError, match="was forked or cloned"):
        restored.exchange()
    assert "go on with that one" in found.value.next_step
    assert restored.notes() == signed, "nothing was signed with this state"
    with world.store.reading() as tx:
        assert WitnessBook(tx.connection, AGGREGATORS).contradictions() == ()
    east.append()
    east.exchange()  # the newest state goes on
    assert east.read(WitnessBook.contradictions) == ()


def test_of_two_clones_the_second_is_found(world, silos, tmp_path):
    all_exchange(silos)
    clone = silos["east"].copy(tmp_path / "clone")
    first, second = Silo(world, "east"), Silo(world, "east", clone)
    second.exchange()  # of which the states are one still
    first.append("here")
    first.exchange()
    second.append("there")
    with pytest.raises(RewrittenError, match="forked or cloned"):
        second.exchange()
    second.append("and one more")
    with pytest.raises(RewrittenError, match="forked or cloned"):
        second.exchange()
    with world.store.reading() as tx:
        (kept, *_) = WitnessBook(tx.connection, AGGREGATORS).contradictions()
    assert kept.log == "cloister/sim/east"
    assert kept.first != kept.second
    first.exchange()
    assert first.read(WitnessBook.contradictions) == ()


def test_an_aggregator_that_forgets_is_made_up_for_by_the_quorum_of_the_others(world, silos, tmp_path):
    """It shows a rolled-back silo an old checkpoint: no honest witness cosigns that one again."""
    all_exchange(silos, 3)
    old = silos["east"].copy(tmp_path / "backup")
    with world.store.transaction() as tx:
        before = WitnessBook(tx.connection, AGGREGATORS).note("cloister/sim/east")
    east = Silo(world, "east")
    east.append("spent")
    east.exchange()
    all_exchange({name: silos[name] for name in ("north", "west")}, 2)
    forget(world, "cloister/sim/east", before)
    world.now += timedelta(minutes=5)
    restored = Silo(world, "east", old)
    restored.exchange()
    all_exchange({name: silos[name] for name in ("north", "west")}, 2)
    cosigned = restored.exchange()
    assert cosigned == {"cloister/sim/aggregator/aggregator"}, "nobody but the liar, after the agent's start"


def test_a_witness_finds_the_aggregators_log_rewritten(world, silos, capsys):
    with world.store.transaction() as tx:
        desk = Ledger(tx.connection, AGGREGATORS_LEDGER)
        by = {"institution": "aggregator", "actor": "aggregator", "role": "aggregator", "utc": "2026-06-01T12:00:00Z"}
        for reason in ("one", "two"):
            fields = {"action": "own", "party": "cloister://sim/aggregator/aggregator", "fingerprint": "0c" * 32}
            desk.append(KeyEntry(**by, **fields, reason=reason))
    all_exchange(silos, 2)
    east = silos["east"]
    seen = east.read(lambda book: book.seen("cloister/sim/aggregator"))
    assert seen is not None
    with world.store.transaction() as tx:
        own = world.runner.identity
        forged = sign_checkpoint(Checkpoint("cloister/sim/aggregator", seen.size, bytes(32)), own.public_key, own.sign)
    answer = wire.ExchangedCheckpoints(
        newest=b"", wanted=(), witnesses=(),
        shown=(wire.ShownLog(checkpoint=forged.encode(), identity_pem=own.certificate_pem, proofs=()),),
    )  # fmt: skip
    assert not east.witnessing.take(answer, world.now), "nothing is cosigned"
    (found,) = east.read(WitnessBook.contradictions)
    assert (found.log, found.second) == ("cloister/sim/aggregator", forged)
    StatusBoard(east.home.folder, "east", lambda: world.now).show(connected=True)
    for words in (["status"], ["witnesses", "list"]):
        assert run(cli.app, [*words, "--state", str(east.home.folder)]) == 0
        assert "CONTRADICT" in capsys.readouterr().out


def test_a_cosignature_leaves_only_when_what_was_seen_is_stored(world, silos):
    all_exchange(silos, 3)
    east, north = silos["east"], silos["north"]
    before = north.read(lambda book: book.seen("cloister/sim/east"))
    east.append()
    east.exchange()
    answer = north.port.exchange_checkpoints(north.witnessing.request(world.now))
    assert [parse_note(shown.checkpoint.decode()).checkpoint.size for shown in answer.shown] == [east.size]

    def full(_connection):
        raise OSError("no space left on the device")

    event.listen(north.home.store._engine, "commit", full)
    with pytest.raises(OSError, match="no space left"):
        north.witnessing.take(answer, world.now)
    event.remove(north.home.store._engine, "commit", full)
    assert north.read(lambda book: book.seen("cloister/sim/east")) == before
    assert north.witnessing.request(world.now).cosigned == ()
    assert north.witnessing.take(answer, world.now)
    assert [said.log for said in north.witnessing.request(world.now).cosigned] == ["cloister/sim/east"]


def auditor(world, folder, name="ms-audit"):
    """Certified by the federation's CA, as whoever runs that can certify anybody."""
    return make_wallet(CertificateAuthority.load(world.state.ca), folder, Role.AUDITOR, name, world.now).identity()


def test_only_pinned_witnesses_count(world, silos, tmp_path, capsys, monkeypatch):
    """Who runs the CA certifies as many auditors as it likes: they do not fill a quorum for a restored state."""
    monkeypatch.setattr(command, "now", lambda: world.now)
    all_exchange(silos, 3)
    east, note = silos["east"], silos["east"].notes()[-1]
    made_up = [auditor(world, tmp_path, f"made-up-{number}") for number in range(3)]
    names = [f"cloister/sim/auditor/made-up-{number}" for number in range(3)]
    both = list(zip(names, made_up, strict=True))
    lines = [cosign(note, name, one.public_key, one.sign, world.now) for name, one in both]
    keys = tuple(wire.WitnessKey(witness=name, identity_pem=one.certificate_pem) for name, one in both)
    newest = with_lines(note, lines).encode()
    before, known = east.exchange(), east.read(lambda book: book.signers("cloister/sim/east"))
    east.witnessing.take(wire.ExchangedCheckpoints(newest=newest, wanted=(), shown=(), witnesses=keys), world.now)
    assert east.read(lambda book: book.signers("cloister/sim/east")) == known
    with east.home.store.reading() as connection:
        size = Ledger(connection, LEDGER).size
    for one, line in zip(made_up, lines, strict=True):  # by hand they are kept and exported
        pem = one.certificate_pem.decode()
        handed = HandedCosignature(log="cloister/sim/east", size=size, line=line, certificate=pem)
        take_handed(east.home, handed, world.now)
    assert east.exchange() == before
    state = ["--state", str(east.home.folder)]
    trusted = ["peers", "trust", "made-up-1", fingerprint(made_up[1].public_key), "--role", "auditor", *state]
    assert run(cli.app, trusted) == 0
    assert run(cli.app, ["witnesses", "list", "--json", *state]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])["witnesses"]
    assert {each["witness"] for each in listed if not each["counts"]} == {names[0], names[2]}
    with east.home.store.reading() as connection:
        book = WitnessBook(connection, WITNESS)
        assert counted(book, trusted_peers(connection), book.signers("cloister/sim/east")) == {*before, names[1]}
    assert run(cli.app, ["witnesses", "list", *state]) == 0
    assert f"{names[0]} cosigned {size} entries at 2026-06-01T12:00:00Z; not counted" in capsys.readouterr().out
    other = auditor(world, tmp_path / "other", "made-up-1")
    forged = HandedCosignature(
        log="cloister/sim/east", size=size, certificate=other.certificate_pem.decode(),
        line=cosign(note, names[1], other.public_key, other.sign, world.now),
    )  # fmt: skip
    with pytest.raises(Refused, match="pinned here is"):
        take_handed(east.home, forged, world.now)


def test_an_auditor_of_a_silos_name_is_not_the_owner_of_its_log(world, silos, tmp_path):
    """A log's name does not say the role: without a look at it, the CA's keeper makes any silo contradict itself."""
    all_exchange(silos, 3)
    log, east, north = "cloister/sim/east", auditor(world, tmp_path, "east"), silos["north"]
    with north.home.store.writing() as tx:
        trust_peer(tx.connection, Role.AUDITOR, "east", fingerprint(east.public_key), world.now)
    seen = north.read(lambda book: book.seen(log))
    for size in (seen.size, 2**40):
        forged = sign_checkpoint(Checkpoint(log, size, bytes(32)), east.public_key, east.sign)
        shown = wire.ShownLog(checkpoint=forged.encode(), identity_pem=east.certificate_pem, proofs=())
        answer = wire.ExchangedCheckpoints(newest=b"", wanted=(), shown=(shown,), witnesses=())
        assert not north.witnessing.take(answer, world.now), "nothing is cosigned"
    assert north.read(WitnessBook.contradictions) == ()
    assert north.read(lambda book: book.seen(log)) == seen


@pytest.mark.parametrize("newest", [b"x", b"cloister/sim/east\n1\n" + b"A" * 43 + b"=\n\n"])
def test_what_is_no_checkpoint_of_ours_is_not_believed(world, silos, newest):
    answer = wire.ExchangedCheckpoints(newest=newest, wanted=(), shown=(), witnesses=())
    with pytest.raises(ProtocolError, match="own checkpoint: is not ours"):
        silos["east"].witnessing.take(answer, world.now)


def trust(world, silo, name, key, monkeypatch):
    """A steward pins a peer's new key."""
    monkeypatch.setattr(command, "now", lambda: world.now)
    assert run(cli.app, ["peers", "trust", name, fingerprint(key), "--state", str(silo.home.folder)]) == 0


def test_witnesses_go_on_with_a_log_whose_key_changed(world, silos, monkeypatch):
    """Each from when it pinned the new key; nothing that was seen under the old one is forgotten."""
    all_exchange(silos, 3)
    east, before = Silo(world, "east"), silos["north"].read(lambda book: book.seen("cloister/sim/east"))
    world.now += timedelta(minutes=5)
    east.rotate()
    east.append("under the new key")
    assert east.exchange() == {"cloister/sim/aggregator/aggregator"}
    all_exchange({name: silos[name] for name in ("north", "west")}, 2)
    assert silos["north"].read(lambda book: book.seen("cloister/sim/east")) == before, "not pinned yet"
    trust(world, silos["north"], "east", east.home.identity.public_key, monkeypatch)
    silos["north"].exchange()
    east.exchange()  # makes the proof from where north was
    silos["north"].exchange()
    assert silos["north"].read(lambda book: book.seen("cloister/sim/east")).size == east.size > before.size
    assert east.exchange() == {"cloister/sim/aggregator/aggregator", "cloister/sim/silo/north"}
    for witness in silos.values():
        assert witness.read(WitnessBook.contradictions) == ()
    with world.store.reading() as tx:
        assert WitnessBook(tx.connection, AGGREGATORS).contradictions() == ()
    east.home.store.close()


def test_a_witness_whose_key_changed_cosigns_anew(world, silos, tmp_path, capsys):
    """Also a ledger that has not grown since: what the old key signed counts no more."""
    all_exchange(silos, 3)
    silos["east"].home.store.close()
    east = Silo(world, "east")
    east.rotate()
    with silos["north"].home.store.writing() as tx:
        trust_peer(tx.connection, Role.SILO, "east", fingerprint(east.home.identity.public_key), world.now)
    for _ in range(2):
        east.exchange()
        silos["north"].exchange()
    with silos["north"].home.store.reading() as connection:
        book = WitnessBook(connection, WITNESS)
        note = book.with_cosignatures(silos["north"].notes()[-1])
        assert book.keys()["cloister/sim/silo/east"] == east.home.identity.certificate_pem
    keys = {"cloister/sim/silo/east": east.home.identity.public_key}
    assert [each.witness for each in cosignatures(note, keys)] == ["cloister/sim/silo/east"]
    folder, out, ca = silos["north"].home.folder, tmp_path / "north.zip", str(east.home.wallet.folder / "ca.pem")
    assert run(ledger_cli.app, ["export", "--state", str(folder), "--out", str(out)]) == 0
    assert run(ledger_cli.app, ["verify", str(out), "--ca", ca, "--quorum", "3"]) == 0, capsys.readouterr().err
    east.home.store.close()


def test_a_state_from_before_the_change_of_key_takes_nothing_up(world, silos, tmp_path):
    all_exchange(silos)
    backup = silos["east"].copy(tmp_path / "backup")
    east = Silo(world, "east")
    east.rotate()
    east.exchange()
    east.home.store.close()
    restored = Silo(world, "east", backup)
    signed = restored.notes()
    with pytest.raises(ProtocolError, match=r"own checkpoint: is not ours.*no job is taken up.*go on with that one"):
        restored.exchange()
    assert restored.notes() == signed, "nothing was signed with this state"
    restored.home.store.close()


def test_a_peer_that_begins_a_new_ledger_under_its_old_name_contradicts_itself(world, silos, tmp_path, monkeypatch):
    """Whoever has the name, with a new key and an empty log, cannot have what was spent forgotten."""
    all_exchange(silos, 3)
    world.enrol(world.silos["east"], tmp_path / "fresh")
    again = Silo(world, "east", tmp_path / "fresh")
    again.append()
    with pytest.raises(ProtocolError, match="own checkpoint: is not ours"):
        again.exchange()
    trust(world, silos["north"], "east", again.home.identity.public_key, monkeypatch)
    assert silos["north"].read(lambda book: book.seen("cloister/sim/east")) is not None
    again.home.store.close()


def test_more_members_than_fit_into_one_message(world, silos):
    """What does not fit now is left out, and the exchange goes on."""
    pem = Wallet(world.silos["east"].state / "wallet").identity().certificate_pem
    with world.store.transaction() as tx:
        book = WitnessBook(tx.connection, AGGREGATORS)
        for number in range(150):
            name, key = f"s{number:03}", Ed25519PrivateKey.generate()
            raw, log = key.public_key().public_bytes_raw(), f"cloister/sim/s{number:03}"
            tx.put_member(MemberRow(Role.SILO, name, raw, pem), world.now)
            book.saw(log, sign_checkpoint(Checkpoint(log, 1, bytes(32)), raw, key.sign))
    all_exchange(silos, 3)
    assert silos["east"].exchange() == ALL - {"cloister/sim/silo/east"}
