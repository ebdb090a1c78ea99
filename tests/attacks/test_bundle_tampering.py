"""A bundle that was altered, or that its owner wrote anew to lie with: the verifier says so, and where.

Adversary: whoever carries the bundle to the auditor, without a key; and the institution itself, with its identity key,
which can sign any log anew and is held to what the other members of its rounds signed.
Flaw class: audit files that prove what their owner likes.
"""

import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from certs.ca import CertificateAuthority
from certs.names import PartyId, Role
from certs.profile import signing_request
from certs.wallet import Wallet
from federation.ledger_cli import app
from privacy.canonical import canonical_json
from privacy.ledger.checkpoint import join_notes, log_origin, parse_note, split_notes
from privacy.ledger.cosignature import cosign, with_lines
from privacy.plan import JobPlan
from runtime.bundle_form import CHECKPOINTS, ENTRIES, HEAD, LEAVES
from runtime.console import run
from silo_agent import client
from tests.bundles import Members, members_of, recounted, resigned, written
from tests.integration.test_silo_training_job import NAMES, DataWorld
from tests.mutations import mutations
from tests.sim.witnesses import Silo, all_exchange
from tests.tiny import tiny_folder

ORIGIN = log_origin("sim", "east")
FLIPS, CUTS, OF_EACH = 12, 5, 15
KINDS = ["policy", "auto-policy", "job-approval", "self-test", *(["reserve", "commit", "release", "round"] * 2)]
Entry = dict[str, object]


@dataclass(frozen=True)
class Federation:
    """Three silos that trained two rounds; the bundles of a silo and of the aggregator."""

    world: DataWorld
    silo: Path
    aggregator: Path

    @property
    def wallet(self):
        return Wallet(self.world.silos["east"].state / "wallet").identity()

    @property
    def key(self) -> str:
        return self.wallet.public_key.hex()

    @property
    def ca(self) -> Path:
        return self.world.silos["east"].state / "wallet" / "ca.pem"

    def trust(self, option: str) -> list[str]:
        return [option, self.key if option == "--key" else str(self.ca)]

    @property
    def members(self) -> Members:
        return members_of(self.silo)


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Federation:
    folder = tmp_path_factory.mktemp("tampering")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "ATTEMPTS", 1)
        world = DataWorld(folder / "world", tiny_folder(tmp_path_factory.mktemp("model")))
        for name in NAMES:
            world.fund(name, 20.0)
        world.start()
        world.run()
    silos = {name: Silo(world, name) for name in NAMES}
    all_exchange(silos, 3)
    for each in silos.values():
        each.home.store.close()
    silo, aggregator = folder / "silo.zip", folder / "aggregator.zip"
    assert run(app, ["export", "--state", str(world.silos["east"].state), "--out", str(silo)]) == 0
    assert run(app, ["export", "--state", str(world.state.root), "--out", str(aggregator)]) == 0
    return Federation(world, silo, aggregator)


@pytest.fixture
def fault(federation, tmp_path, capsys) -> Callable[[Members | list[tuple[str, bytes]] | bytes], str]:
    """What the verifier says is wrong with a bundle of these members, or of these bytes."""

    def found(content: Members | list[tuple[str, bytes]] | bytes, key: str | None = None, *, ca: bool = False) -> str:
        path = tmp_path / "bundle.zip"
        path.write_bytes(content) if isinstance(content, bytes) else written(path, content)
        trust = ["--ca", str(federation.ca)] if ca else ["--key", key or federation.key]
        code = run(app, ["verify", str(path), *trust, "--json"])
        said = json.loads(capsys.readouterr().out)
        assert (code, said["verified"]) == (6, False)
        return f"{said['fault']['what']}: {said['fault']['why']}"

    return found


def test_what_was_not_touched_verifies(federation, tmp_path, capsys):
    assert run(app, ["verify", str(federation.silo), "--key", federation.key, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["evidence"] == {
        "plans": 1, "transcripts": 2, "reports": 1, "rounds_out_of_scope": 0, "reports_absent": 0,
        "texts_opened": 1, "texts_left_out": {}, "members_unpinned": 3, "pins": {},
    }  # fmt: skip
    key = federation.world.identity_key("aggregator").hex()
    assert run(app, ["verify", str(federation.aggregator), "--key", key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evidence"]["transcripts"] == 2
    assert written(tmp_path / "again.zip", federation.members).read_bytes() == federation.silo.read_bytes()


@pytest.mark.parametrize("trust", ["--ca", "--key"])
def test_nothing_that_a_member_says_can_be_changed(federation, tmp_path, capsys, trust):
    """In a ZIP that is sound. With a key alone nobody vouches for certificates: what else than a name and a key is in
    them, and who signed that, is not checked then, and of nothing else in a bundle this can be said.
    """
    path, passed, tried = tmp_path / "bundle.zip", [], 0
    for mutation in mutations(federation.members, OF_EACH):
        code = run(app, ["verify", str(written(path, mutation.members)), *federation.trust(trust), "--json"])
        assert code == (0 if json.loads(capsys.readouterr().out)["verified"] else 6), mutation
        passed += [mutation] if code == 0 else []
        tried += 1
    unchecked = {name for name in federation.members if name.endswith(".pem")} if trust == "--key" else set()
    assert {mutation.member for mutation in passed} == unchecked, [str(mutation) for mutation in passed]
    assert tried >= 200


def test_less_of_the_same_is_no_lie(federation, tmp_path, capsys):
    """An earlier checkpoint, cosignatures, and what other silos signed of the adapter can be missing."""
    members = federation.members
    notes, name = notes_of(members), min(name for name in members if name.startswith("transcripts/"))
    record = json.loads(members[name])
    own = [text for text in record["applied"] if json.loads(text["body"])["silo"] == "east"]
    alone = f"{notes[-1].rsplit(chr(10), 2)[0]}\n"
    less = [
        with_notes(members, [*notes[:1], *notes[2:]]),
        with_notes(members, notes[-1:]),
        with_notes(members, [*notes[:-1], alone]),
        members | {name: canonical_json(record | {"applied": own})},
    ]
    for altered in less:
        path = written(tmp_path / "less.zip", altered)
        assert run(app, ["verify", str(path), *federation.trust("--ca")]) == 0, capsys.readouterr().err
    assert run(app, ["verify", str(written(path, less[2])), *federation.trust("--ca"), "--quorum", "3"]) == 6
    capsys.readouterr()


def test_neither_the_last_checkpoint_nor_the_threshold_can_be_missing(federation, fault):
    members = federation.members
    name = min(name for name in members if name.startswith("transcripts/"))
    record = json.loads(members[name])
    assert "no signed checkpoint covers it" in fault(with_notes(members, notes_of(members)[:-1]), ca=True)
    few = members | {name: canonical_json(record | {"consents": record["consents"][:1]})}
    assert "1 consents of 2" in fault(few, ca=True)


@pytest.mark.parametrize("seed", range(FLIPS))
def test_no_byte_of_the_file_can_be_changed(federation, fault, seed):
    draw, data = random.Random(seed), bytearray(federation.silo.read_bytes())
    place = draw.randrange(len(data))
    data[place] ^= 1 << draw.randrange(8)
    assert fault(bytes(data))


@pytest.mark.parametrize("seed", range(CUTS))
def test_no_end_can_be_cut_off_and_nothing_added(federation, fault, seed):
    data = federation.silo.read_bytes()
    assert fault(data[: random.Random(seed).randrange(len(data))])
    assert fault(data + bytes([seed]))
    assert fault(bytes([seed]) + data)


def test_no_member_can_be_left_out_doubled_or_moved(federation, fault):
    pairs = list(federation.members.items())
    for i, (name, content) in enumerate(pairs):
        assert fault(pairs[:i] + pairs[i + 1 :]), name
        with pytest.warns(UserWarning, match="Duplicate name"):
            assert "twice" in fault([*pairs, (name, content)])
        if i:
            moved = [*pairs[: i - 1], pairs[i], pairs[i - 1], *pairs[i + 1 :]]
            assert "another form" in fault(moved), name


@pytest.mark.parametrize("name", ["../entries.jsonl", "/etc/passwd", "plans/../x.json", "notes.txt", "plans/AB.json"])
def test_a_member_of_any_other_name_is_refused(federation, fault, name):
    assert "is no name of a bundle's member" in fault([*federation.members.items(), (name, b"{}")])


def test_a_compressed_bundle_is_refused_before_it_is_read(federation, fault, tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in federation.members.items():
            archive.writestr(name, bytes(100 << 20) if name == LEAVES else content)
    assert "is compressed" in fault(path.read_bytes())


@pytest.mark.parametrize("sequence", range(len(KINDS)))
def test_no_entry_can_be_dropped_moved_or_backdated(federation, fault, sequence):
    """By somebody who also makes the lists of hashes fit, and cannot sign."""
    members = federation.members
    lines = members[ENTRIES].splitlines()
    for entries in (
        lines[:sequence] + lines[sequence + 1 :],
        [*lines[:sequence], lines[sequence], *lines[sequence:]],
        [
            *lines[:sequence],
            lines[sequence].replace(b'"utc":"2026-06-01T12', b'"utc":"2026-06-01T11'),
            *lines[sequence + 1 :],
        ],
        [*lines[1 : sequence + 1], lines[0], *lines[sequence + 1 :]] if sequence else lines[:-1],
    ):
        stranger = Ed25519PrivateKey.generate()
        forged = resigned(members, entries, ORIGIN, stranger.public_key().public_bytes_raw(), stranger.sign)
        assert "the log's key did not sign it" in fault(forged)
        assert "entr" in fault(forged | {CHECKPOINTS: members[CHECKPOINTS]})


def test_evidence_of_something_else_is_refused(federation, fault):
    members = federation.members
    first, second = sorted(name for name in members if name.startswith("transcripts/"))
    assert "round: 1 is stated, the round's transcript proves 2" in fault(members | {first: members[second]})
    plan = next(name for name in members if name.startswith("plans/"))
    other = members[plan].replace(b'"purpose":"', b'"purpose":"x')
    assert "another digest" in fault(members | {plan: other})
    report = next(name for name in members if name.startswith("reports/"))
    assert "its SHA-256 is not the one in the ledger" in fault(members | {report: b"{}"})
    assert "no entry" in fault(recounted(members | {f"{first[:-6]}3.json": members[second]}))
    for name in (plan, first):
        assert "is not in the export" in fault(recounted({n: c for n, c in members.items() if n != name}))


@pytest.mark.parametrize("signed", ["consents", "fingerprints", "headers", "round_joins", "job_joins", "commit"])
def test_no_signature_of_a_transcript_can_be_changed(federation, fault, signed):
    members = federation.members
    name = min(name for name in members if name.startswith("transcripts/"))
    record = json.loads(members[name])
    statement = record[signed] if signed == "commit" else record[signed][0]
    statement["signature"] = f"{int(statement['signature'], 16) ^ 1:0128x}"
    assert "signature" in fault(members | {name: canonical_json(record)})


def edited(members: Members, sequence: int, /, **changes: object) -> list[bytes]:
    lines = members[ENTRIES].splitlines()
    lines[sequence] = canonical_json(json.loads(lines[sequence]) | changes)
    return lines


def renumbered(lines: list[bytes]) -> list[bytes]:
    return [canonical_json(json.loads(line) | {"sequence": i}) for i, line in enumerate(lines)]


def weaker(entry: Entry) -> Entry:
    """The mechanism of a plan with more noise: what an institution would say that wants to have spent less."""
    return dict(entry["mechanism"]) | {"clip_l2": 0.5}  # type: ignore[call-overload]


PIN: Entry = {
    "action": "pinned", "actor": "x", "fingerprint": "00" * 32, "institution": "east", "kind": "key",
    "party": "cloister://sim/silo/north", "reason": "compared", "role": "steward", "schema": "cloister/ledger/v1",
    "utc": "2026-06-01T12:00:00Z",
}  # fmt: skip

LIES: dict[str, tuple[Callable[[Members], list[bytes]], str]] = {
    "others were in the sum": (lambda m: edited(m, 7, members=["north", "west"]), "members: "),
    "the sum was another": (lambda m: edited(m, 7, sum_sha256="00" * 32), "sum_sha256: "),
    "the round was another": (lambda m: edited(m, 7, transcript_sha256="00" * 32), "transcript_sha256: "),
    "it began elsewhere": (lambda m: edited(m, 11, adapter_before_sha256="00" * 32), "adapter_before_sha256: "),
    "it gave another adapter": (lambda m: edited(m, 7, adapter_after_sha256="00" * 32), "adapter_after_sha256: "),
    "the last one gave another adapter": (lambda m: edited(m, 11, adapter_after_sha256="00" * 32), "adapter_after_sha"),
    "it gave no adapter": (lambda m: edited(m, 11, adapter_after_sha256=None), "adapter_after_sha256: "),
    "another adapter was trained on": (lambda m: edited(m, 8, adapter_sha256="00" * 32), "adapter_sha256: "),
    "a steward approved it, automatically": (lambda m: edited(m, 2, role="steward"), "automatic: "),
    "a peer had another key": (
        lambda m: renumbered([canonical_json(PIN), *m[ENTRIES].splitlines()]), "names cloister://sim/silo/north with"
    ),
    "the purpose was another": (lambda m: edited(m, 2, purpose="public health"), "purpose: "),
    "the model was another": (lambda m: edited(m, 4, model_sha256="00" * 32), "model_sha256: "),
    "the clip was smaller": (
        lambda m: [
            canonical_json(entry | {"mechanism": weaker(entry)}) if entry["kind"] in ("reserve", "commit") else line
            for line, entry in ((line, json.loads(line)) for line in m[ENTRIES].splitlines())
        ],
        "mechanism: is not the one that the plan promises",
    ),
    "nothing was released": (
        lambda m: renumbered([line for i, line in enumerate(m[ENTRIES].splitlines()) if i != 6]),
        "release: an update of east is in the sum, and no entry before says that one was released",
    ),
    "nothing was charged": (
        lambda m: renumbered(
            [
                canonical_json(json.loads(line) | {"population": None}) if kind == "release" else line
                for line, kind in zip(m[ENTRIES].splitlines(), KINDS, strict=True)
                if kind not in ("job-approval", "reserve", "commit")
            ]
        ),
        "population: the plan trains, yet no population is charged",
    ),
    "the round was never published": (
        lambda m: renumbered(m[ENTRIES].splitlines()[:11]),
        "no entry says that this round was published",
    ),
}  # fmt: skip


def test_the_entries_are_those_that_the_lies_are_about(federation):
    assert [json.loads(line)["kind"] for line in federation.members[ENTRIES].splitlines()] == KINDS


@pytest.mark.parametrize("lie", LIES)
def test_an_owner_that_signs_anew_is_held_to_what_others_signed(federation, fault, lie):
    members, (lines, complaint) = federation.members, LIES[lie]
    entries, wallet = lines(members), federation.wallet
    forged = resigned(members, entries, ORIGIN, wallet.public_key, wallet.sign)
    head = json.loads(members[HEAD]) | {"entries": len(entries)}
    assert complaint in fault(forged | {HEAD: canonical_json(head)})


def test_a_bundle_does_not_claim_another_scope_or_size_than_it_has(federation, fault):
    members, head = federation.members, json.loads(federation.members[HEAD])
    for changes, complaint in (
        ({"since": "2100-01-01T00:00:00Z"}, "outside of what the export says it holds"),
        ({"job": "ab" * 32}, "outside of what the export says it holds"),
        ({"entries": 5}, "says that it holds 5 entries"),
        ({"log": "cloister/sim/west"}, "of cloister/sim/west"),
        (
            {"version": "cloister/v2/bundle"},
            "is of version 'cloister/v2/bundle', which this version of Cloister does not know",
        ),
        ({"extra": 1}, "extra"),
    ):
        assert complaint in fault(members | {HEAD: canonical_json(head | changes)})
    del head["version"]
    assert "a field is missing" in fault(members | {HEAD: canonical_json(head)})


def test_another_institution_s_key_does_not_vouch_for_it(federation, fault):
    other = federation.world.identity_key("west").hex()
    assert "it is of a log that never had the key" in fault(federation.silo.read_bytes(), key=other)


def test_an_export_of_one_job_or_of_a_time_says_what_it_leaves_out(federation, tmp_path, capsys):
    state = str(federation.world.silos["east"].state)
    for words in (["--job", "tiny"], ["--job", federation.world.job.hex()[:8]], ["--since", "2026-06-01"]):
        out = tmp_path / f"{len(words[1])}.zip"
        assert run(app, ["export", "--state", state, "--out", str(out), *words]) == 0
        capsys.readouterr()
        assert run(app, ["verify", str(out), "--key", federation.key]) == 0
        said = capsys.readouterr().out
        assert "compared with 1 plans, 2 rounds' transcripts and 1 self-tests' reports" in said
        assert f"the export was of {words[0][2:]} " in said


@pytest.fixture
def compared(federation, tmp_path, capsys):
    """What a comparison of one bundle with those of everybody else says: exit code, and each finding's words.

    `instead`: of somebody else another bundle.
    """
    others = {"aggregator": federation.aggregator}
    for name in ("north", "west"):
        others[name] = tmp_path / f"{name}.zip"
        state = str(federation.world.silos[name].state)
        assert run(app, ["export", "--state", state, "--out", str(others[name])]) == 0
    capsys.readouterr()

    def found(*bundles: Path, **instead: Path) -> tuple[int, list[str]]:
        words = [str(path) for path in (*bundles, *(others | instead).values())] + ["--ca", str(federation.ca)]
        code = run(app, ["compare", *words, "--json"])
        said = json.loads(capsys.readouterr().out)
        assert said["agree"] == (code == 0) == (not said["disagreements"] and not said["undetermined"])
        assert run(app, ["compare", *words]) == code
        text = capsys.readouterr().out
        assert ("They agree on every round" in text) == said["agree"]
        for each in said["undetermined"]:
            assert f"undetermined: {each['what']}" in text
        if said["undetermined"]:
            assert f"next: {max(each['next_step'] for each in said['undetermined'])}" in text
        return code, [
            *(f"{each['round']}: {each['what']}" for each in said["disagreements"]),
            *(f"{each['round']}: undetermined: {each['what']}" for each in said["undetermined"]),
        ]

    return found


def owner_signed(federation: Federation, path: Path, lines: list[bytes]) -> Path:
    """What the owner of a log can make of it that verifies by itself: nothing is left of rounds it does not name."""
    wallet, members = federation.wallet, federation.members
    kept = {(entry["job"], entry["round"]) for entry in map(json.loads, lines) if entry["kind"] == "round"}
    told = {f"transcripts/{job}-{number}.json" for job, number in kept}
    members = {n: c for n, c in members.items() if not n.startswith("transcripts/") or n in told}
    if not any(json.loads(line).get("job") for line in lines):
        members = {n: c for n, c in members.items() if not n.startswith(("plans/", "reports/"))}
    forged = resigned(members, lines, ORIGIN, wallet.public_key, wallet.sign)
    head = json.loads(members[HEAD]) | {"entries": len(lines)}
    return written(path, recounted(forged | {HEAD: canonical_json(head)}))


def test_the_bundles_of_all_institutions_agree(federation, compared):
    assert compared(federation.silo) == (0, [])


def test_a_log_that_leaves_a_round_or_a_job_out_verifies_and_others_tell(federation, compared, tmp_path, capsys):
    """Alone it is sound; beside any other member's it is not. The entry at the end is later than the rounds."""
    lines = federation.members[ENTRIES].splitlines()
    last = canonical_json(json.loads(lines[0]) | {"population": "others", "actor": "x", "utc": "2026-07-01T00:00:00Z"})
    for kept, rounds in ((lines[:8], [2]), (lines[:1], [1, 2])):
        forged = owner_signed(federation, tmp_path / "forged.zip", renumbered([*kept, last]))
        assert run(app, ["verify", str(forged), "--key", federation.key]) == 0
        capsys.readouterr()
        code, words = compared(forged)
        assert code == 6
        assert words == left_out(*rounds)


def left_out(*rounds: int) -> list[str]:
    return [
        f"{number}: {what}"
        for number in rounds
        for what in (
            "an update of east is in the sum, and its log released none",
            "is not spoken of in the log of east, and published elsewhere",
        )
    ]


def test_a_clock_set_back_makes_a_left_out_job_undetermined_and_a_witness_tells(federation, compared, tmp_path, capsys):
    """The job is left out, and what there is looks older than it: an old export would look the same."""
    line = json.loads(federation.members[ENTRIES].splitlines()[0]) | {"utc": "2026-06-01T11:55:00Z"}
    entries = [canonical_json(each) for each in (line, line | {"population": "others", "actor": "x", "sequence": 1})]
    forged = owner_signed(federation, tmp_path / "forged.zip", entries)
    why = "the log of east names nothing of it; by its own account its export ends before it, at 2026-06-01T11:55:00Z"
    assert compared(forged) == (6, [f"{number}: undetermined: {why}" for number in (1, 2)])
    north = Wallet(federation.world.silos["north"].state / "wallet").identity()
    members = members_of(forged)
    (note,) = notes_of(members)
    for moment, found in ((datetime(2026, 6, 1, 11, 58, tzinfo=UTC), 2), (datetime(2026, 9, 1, tzinfo=UTC), 4)):
        cosigned = cosign(note, "cloister/sim/silo/north", north.public_key, north.sign, moment)
        code, words = compared(written(forged, with_notes(members, [with_lines(note, [cosigned])])))
        assert (code, len(words)) == (6, found)
    assert words == left_out(1, 2)


def test_an_aggregator_that_leaves_its_last_round_out_does_not_agree(federation, compared, tmp_path, capsys):
    members, wallet = members_of(federation.aggregator), Wallet(federation.world.state.root / "wallet").identity()
    (last,) = [name for name in members if name.startswith("transcripts/") and name.endswith("-2.json")]
    less = {name: content for name, content in members.items() if name != last}
    entries = less[ENTRIES].splitlines()[:1]
    forged = resigned(less, entries, log_origin("sim", "aggregator"), wallet.public_key, wallet.sign)
    head = json.loads(forged[HEAD]) | {"entries": 1}
    path = written(tmp_path / "less.zip", recounted(forged | {HEAD: canonical_json(head)}))
    assert run(app, ["verify", str(path), "--ca", str(federation.ca)]) == 0
    capsys.readouterr()
    code, words = compared(federation.silo, aggregator=path)
    assert code == 6
    assert len(words) == 1
    assert words[0].startswith("2: undetermined: the log of aggregator names nothing of it; ")


def scoped(members: Members) -> Members:
    """As an export of a time after all rounds: the entries alone."""
    head = json.loads(members[HEAD]) | {"since": "2030-01-01T00:00:00Z"}
    kept = {name: c for name, c in members.items() if not name.startswith(("transcripts/", "plans/", "reports/"))}
    bare = {name: content for name, content in kept.items() if not name.startswith("cards/")}
    return recounted(bare | {HEAD: canonical_json(head)})


def test_another_update_than_the_one_in_the_sum_is_found_where_an_export_brings_no_transcripts(
    federation, compared, tmp_path, capsys
):
    """Its own transcript would tell; with a scope that has none, those of others do."""
    honest, ca = written(tmp_path / "scoped.zip", scoped(federation.members)), str(federation.ca)
    assert compared(honest) == (0, [])
    assert run(app, ["compare", str(honest), str(federation.aggregator), "--ca", ca]) == 0
    said = capsys.readouterr().out
    assert (
        "  the export was of since 2030-01-01T00:00:00Z: 2 of its published rounds were not compared with a transcript"
        in said
    )
    assert run(app, ["compare", str(honest), str(federation.aggregator), "--ca", ca, "--json"]) == 0
    logs = json.loads(capsys.readouterr().out)["logs"]
    assert [log["scope"] for log in logs] == [
        {"job": None, "since": "2030-01-01T00:00:00Z"},
        {"job": None, "since": None},
    ]
    assert [log["rounds_without_transcript"] for log in logs] == [2, 0]
    entries = [json.loads(line) for line in federation.members[ENTRIES].splitlines()]
    for sequence in (9, 10):
        entries[sequence]["ciphertext_sha256"] = "00" * 32
    wallet = federation.wallet
    lines = [canonical_json(entry) for entry in entries]
    forged = resigned(scoped(federation.members), lines, ORIGIN, wallet.public_key, wallet.sign)
    path = written(tmp_path / "forged.zip", forged)
    assert run(app, ["verify", str(path), "--ca", ca]) == 0
    capsys.readouterr()
    why = "the update that east released is not the one in the sum, by the transcript of aggregator, north, west"
    assert compared(path) == (6, [f"2: {why}"])


def test_an_invented_member_of_a_plan_is_found_beside_the_log_of_the_real_one(federation, compared, tmp_path, capsys):
    """Who makes up a cohort needs its keys: a plan of such a job verifies, and the real member never had the key."""
    members, wallet = federation.members, federation.wallet
    plan = json.loads(next(content for name, content in members.items() if name.startswith("plans/")))
    (north,) = [member for member in plan["cohort"]["roster"] if member["name"] == "north"]
    north["identity_key"] = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    invented = canonical_json(plan)
    job = JobPlan.decode(invented).digest().hex()
    lines = members[ENTRIES].splitlines()
    approval = canonical_json(json.loads(lines[2]) | {"job": job})
    entries = renumbered([*lines[:3], approval, *lines[3:]])
    more = recounted(members | {f"plans/{job}.json": invented})
    forged = resigned(more, entries, ORIGIN, wallet.public_key, wallet.sign)
    head = json.loads(forged[HEAD]) | {"entries": len(entries)}
    path = written(tmp_path / "forged.zip", forged | {HEAD: canonical_json(head)})
    assert run(app, ["verify", str(path), "--ca", str(federation.ca)]) == 0
    capsys.readouterr()
    names = f"names north by the key {north['identity_key'][:16]}, which the log of north never had"
    assert compared(path) == (6, [f"None: the plan of job {job[:12]} in the bundle of east {names}"])


def test_an_institution_that_shows_two_logs_is_found_out(federation, compared, tmp_path):
    lines = federation.members[ENTRIES].splitlines()
    other = [canonical_json(json.loads(lines[0]) | {"reason": "another"}), *lines[1:]]
    forged = owner_signed(federation, tmp_path / "forged.zip", other)
    code, words = compared(forged, federation.silo)
    assert code == 6
    assert words == ["None: signed two logs: that of 12 entries is no beginning of that of 12"]


def test_a_comparison_of_what_does_not_verify_names_the_bundle(federation, tmp_path, capsys):
    path = tmp_path / "bad.zip"
    path.write_bytes(federation.silo.read_bytes()[:-1])
    ca = str(federation.world.state.root / "ca" / "ca.pem")
    assert run(app, ["compare", str(federation.silo), str(path), "--ca", ca]) == 6
    assert f"cloister: {path}\n" in capsys.readouterr().err, "once"
    entries = federation.members[ENTRIES].replace(b"patients", b"patienty", 1)
    written(path, federation.members | {ENTRIES: entries})
    assert run(app, ["compare", str(federation.silo), str(path), "--ca", ca]) == 6
    assert f"cloister: {path}: entry 0\n" in capsys.readouterr().err
    written(path, recounted({n: c for n, c in federation.members.items() if n != "identity.pem"}))
    assert run(app, ["compare", str(federation.silo), str(path), "--ca", ca]) == 3
    said = capsys.readouterr().err
    assert f"cloister: {path}: bundle\n  why:  has no identity.pem\n  next: Ask the institution for an export" in said
    for wrong in (path, tmp_path / "none.pem"):
        assert run(app, ["compare", str(federation.silo), str(path), "--ca", str(wrong)]) == 3
        assert f"{path}:" not in capsys.readouterr().err, "the CA is not the bundle's fault"
    assert run(app, ["compare", str(federation.silo), "--ca", ca]) == 2
    assert "at least two bundles" in capsys.readouterr().err


# -- witnesses -------------------------------------------------------------------------------------------------------

WITNESSES = ["cloister/sim/aggregator/aggregator", *(f"cloister/sim/silo/{name}" for name in NAMES if name != "east")]


def notes_of(members: Members) -> list[str]:
    return list(split_notes(members[CHECKPOINTS].decode()))


def with_notes(members: Members, notes: list[str]) -> Members:
    return members | {CHECKPOINTS: join_notes(tuple(notes)).encode()}


def test_the_ca_vouches_for_the_witnesses(federation, capsys):
    assert run(app, ["verify", str(federation.silo), "--ca", str(federation.ca), "--quorum", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["witness"] for each in said["witnesses"]] == WITNESSES
    assert {each["entries"] for each in said["witnesses"]} == {said["entries"]}
    assert run(app, ["verify", str(federation.silo), "--ca", str(federation.ca)]) == 0
    assert f"witnessed by {WITNESSES[0]}, last up to entry {said['entries'] - 1}" in capsys.readouterr().out
    assert run(app, ["verify", str(federation.silo), "--ca", str(federation.ca), "--quorum", "4"]) == 6
    assert "only 0 are under a checkpoint that 4 cosigned" in capsys.readouterr().err
    assert run(app, ["verify", str(federation.silo), "--key", federation.key, "--quorum", "1"]) == 3
    assert run(app, ["verify", str(federation.silo), "--key", federation.key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["witnesses"] is None


def cosigned_lines(members: Members) -> list[str]:
    return notes_of(members)[-1].split("\n\n")[1].splitlines()


@pytest.mark.parametrize("ca", [True, False])
@pytest.mark.parametrize("place", range(3))
def test_no_cosignature_can_be_altered_doubled_or_lent(federation, fault, place, ca):
    members = federation.members
    notes, line = notes_of(members), cosigned_lines(members)[1 + place]
    name = line.split(" ")[1]
    altered = line[:-8] + ("A" if line[-8] != "A" else "B") + line[-7:]
    found = fault(with_notes(members, [*notes[:-1], notes[-1].replace(line, altered)]), ca=ca)
    assert f"cosignature by {name}: is not by the key that it names" in found
    assert "twice" in fault(with_notes(members, [*notes[:-1], notes[-1] + line + "\n"]), ca=ca)
    assert "is not by the key" in fault(with_notes(members, [notes[0] + line + "\n", *notes[1:]]), ca=ca)
    other = line.replace(name, "cloister/sim/silo/nobody")
    assert "whose certificate is not there" in fault(
        with_notes(members, [*notes[:-1], notes[-1].replace(line, other)]), ca=ca
    )


@pytest.mark.parametrize("ca", [True, False])
@pytest.mark.parametrize("witness", ["silo-north", "silo-west", "aggregator-aggregator"])
def test_no_witness_certificate_can_be_left_out_or_swapped(federation, fault, witness, ca):
    members, name = federation.members, f"witnesses/{witness}.pem"
    less = {member: content for member, content in members.items() if member != name}
    assert "whose certificate is not there" in fault(recounted(less), ca=ca)
    assert "is that of cloister://sim/silo/east" in fault(members | {name: members["identity.pem"]}, ca=ca)
    assert "certificate" in fault(members | {name: members[name].replace(b"M", b"N", 2)}, ca=ca)


def test_history_rewritten_with_the_silos_own_key_loses_its_witnesses(federation, tmp_path, capsys):
    """The owner signs another history anew: it cannot keep the cosignatures, and a quorum is missing."""
    members = federation.members
    entries = [canonical_json(json.loads(members[ENTRIES].splitlines()[0]) | {"epsilon": 30.0})]
    rewritten = resigned(members, entries, ORIGIN, federation.wallet.public_key, federation.wallet.sign)
    bare = {name: content for name, content in rewritten.items() if "/" not in name}
    bare[HEAD] = canonical_json(json.loads(bare[HEAD]) | {"entries": 1})
    path = written(tmp_path / "rewritten.zip", recounted(bare))
    assert run(app, ["verify", str(path), "--ca", str(federation.ca)]) == 0, "it is a log that its owner signed"
    assert "witnessed by nobody" in capsys.readouterr().out
    assert run(app, ["verify", str(path), "--ca", str(federation.ca), "--quorum", "1"]) == 6
    capsys.readouterr()
    assert run(app, ["compare", str(path), str(federation.silo), "--ca", str(federation.ca)]) == 6


def test_an_entry_from_after_its_cosignatures_is_named(federation, fault):
    """The clock of whoever wrote it was ahead, or the entry was made to look later than it was."""
    members = federation.members
    entries = [json.loads(line) for line in members[ENTRIES].splitlines()]
    entries[-1]["utc"] = "2031-01-01T00:00:00Z"
    bodies = [canonical_json(entry) for entry in entries]
    later = resigned(members, bodies, ORIGIN, federation.wallet.public_key, federation.wallet.sign)
    (note,) = notes_of(later)
    north = Wallet(federation.world.silos["north"].state / "wallet").identity()
    line = cosign(note, "cloister/sim/silo/north", north.public_key, north.sign, federation.world.now)
    found = fault(with_notes(later, [with_lines(note, [line])]), ca=True)
    assert "every witness had cosigned it by" in found or "certificate was good until" in found


def test_no_model_card_can_say_something_else(federation, fault):
    members = federation.members
    (name,) = [name for name in members if name.startswith("cards/")]
    card = members[name].decode()
    assert "| east | record | 2 |" in card
    assert "not told to the exporter |" in card, "of the others' ledgers"
    cheaper = card.replace("charged in its ledger", "charged in its ledger ", 1)
    assert "does not say what the plan, the rounds and the ledger say" in fault(members | {name: cheaper.encode()})
    less = {member: content for member, content in members.items() if member != name}
    assert "model card of job" in fault(recounted(less))
    assert "is missing" in fault(recounted(less))


def test_a_quorum_vouches_for_all_entries_or_for_none(federation, tmp_path, capsys):
    """What witnesses cosigned long ago says nothing of what the owner wrote after it, or anew."""
    members = federation.members
    lines, note = members[ENTRIES].splitlines()[:8], notes_of(members)[0]
    size = int(note.split("\n")[1])
    last = canonical_json(json.loads(lines[0]) | {"population": "others", "actor": "x", "utc": "2026-06-02T00:00:00Z"})
    forged = members_of(owner_signed(federation, tmp_path / "forged.zip", renumbered([*lines, last])))
    early = with_lines(parse_note(note).text + "\n" + note.split("\n")[4] + "\n", cosigned_by(federation, note))
    path = written(tmp_path / "forged.zip", with_notes(forged, [early, *notes_of(forged)]))
    words = ["verify", str(path), "--ca", str(federation.ca)]
    assert run(app, words) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert run(app, [*words, "--quorum", "2"]) == 6
    assert f"of 9 entries only {size} are under a checkpoint that 2 cosigned" in capsys.readouterr().err


def cosigned_by(federation: Federation, note: str) -> list[str]:
    """What two honest witnesses say of a note."""
    identities = [Wallet(federation.world.silos[name].state / "wallet").identity() for name in ("north", "west")]
    now = federation.world.now
    return [cosign(note, f"cloister/sim/silo/{w.party.name}", w.public_key, w.sign, now) for w in identities]


def test_one_key_under_two_names_is_one_witness(federation, fault):
    """The CA certified a witness' key, or the log's own, for somebody else as well."""
    members, ca = federation.members, CertificateAuthority.load(federation.world.state.ca)
    for wallet in (federation.wallet, Wallet(federation.world.silos["north"].state / "wallet").identity()):
        party = PartyId("sim", Role.AUDITOR, "ms-audit")
        request = signing_request(wallet._key, party).public_bytes(Encoding.PEM)
        pem = ca.sign_identity(request, party, federation.world.now)
        forged = recounted(members | {"witnesses/auditor-ms-audit.pem": pem})
        assert "is for a key of the log, or of another witness" in fault(forged, ca=True)


def test_a_witness_whom_the_log_pins_with_another_key_is_named(federation, fault, tmp_path):
    """North is a sock puppet in the log and its plan, and the real one has cosigned: both cannot be."""
    lines = renumbered([federation.members[ENTRIES].splitlines()[0], canonical_json(PIN)])
    forged = owner_signed(federation, tmp_path / "pinned.zip", lines)
    assert "the log pins 0000000000000000" in fault(members_of(forged), ca=True)


def test_an_auditor_may_have_cosigned_under_a_key_from_before_the_pinned_one(federation, tmp_path, capsys):
    auditor, party = Ed25519PrivateKey.generate(), PartyId("sim", Role.AUDITOR, "ms-audit")
    pin = PIN | {"party": party.uri}
    lines = renumbered([federation.members[ENTRIES].splitlines()[0], canonical_json(pin)])
    members = members_of(owner_signed(federation, tmp_path / "auditor.zip", lines))
    (note,) = notes_of(members)
    raw, now = auditor.public_key().public_bytes_raw(), federation.world.now
    line = cosign(note, "cloister/sim/auditor/ms-audit", raw, auditor.sign, now)
    request = signing_request(auditor, party).public_bytes(Encoding.PEM)
    pem = CertificateAuthority.load(federation.world.state.ca).sign_identity(request, party, now)
    sound = with_notes(members, [with_lines(note, [line])]) | {"witnesses/auditor-ms-audit.pem": pem}
    path = written(tmp_path / "auditor.zip", recounted(sound))
    assert run(app, ["verify", str(path), "--ca", str(federation.ca), "--quorum", "1"]) == 0, capsys.readouterr().err
