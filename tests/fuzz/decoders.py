"""Coverage-guided fuzzing of what an auditor's tool decodes: a parse, or an error of ours; a parse encodes back alike.

python -m tests.fuzz.decoders entry|note|cosignature|log|plan|record|proposal|review|bundle [atheris' options, a corpus
folder]
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["privacy", "runtime", "federation.verification", "federation.unvouched"]):
    from federation.verification import trusted_by_key, verified
    from privacy.errors import ConfigError, ProtocolError, VerificationError
    from privacy.ledger.checkpoint import join_notes, parse_note, signature_line, split_notes
    from privacy.ledger.codec import decode_any, decode_entry, encode_entry
    from privacy.plan import JobPlan
    from privacy.record import RoundRecord, check_record
    from privacy.review import SignedReview
    from privacy.two_person import Proposal
    from runtime.bundle import opened_bundle
    from runtime.bundle_form import CHECKPOINTS

from tests.bundles import Members, made_up, written
from tests.fuzz.resigned import cosigned_at, sound, verify_redrawn
from tests.ledger_logs import rotated_log

OURS = (ProtocolError, VerificationError, ConfigError)


def entry(data: bytes) -> None:
    """The quick way and the general one agree about every text."""
    try:
        slow = decode_any(data)
    except ProtocolError:
        slow = None
    try:
        quick = decode_entry(data)
    except ProtocolError:
        quick = None
    assert quick == slow
    assert quick is None or encode_entry(quick) == data


def note(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    notes = split_notes(text)
    assert join_notes(notes) == text
    for each in notes:
        parsed = parse_note(each)
        lines = [signature_line(name, blob) for name, blob in parsed.signatures]
        assert each == "\n".join([parsed.checkpoint.text(), *lines, ""])


@cache
def a_note() -> str:
    log = sound()
    log.sign()
    return log.notes[0]


def cosignature(data: bytes) -> None:
    """A witness may sign any time: its key is the one that the line names, and its signature holds."""
    cosigned_at(a_note(), int.from_bytes(data[:8].rjust(8, b"\0"), "big"), data[8:])


def log(data: bytes) -> None:
    """Signed anew by its owner: a report, or a fault that is named."""
    verify_redrawn(Random(data))


def plan(data: bytes) -> None:
    assert JobPlan.decode(data).encode() == data


def record(data: bytes) -> None:
    made = RoundRecord.decode(data)
    assert made.encode() == data
    check_record(made)


def proposal(data: bytes) -> None:
    assert Proposal.decode(data).encode() == data


def review(data: bytes) -> None:
    made = SignedReview.decode(data)
    assert made.encode() == data
    made.review.check(made.signature)


@cache
def members() -> tuple[str, Members]:
    """Those of a bundle that verifies with this key."""
    made = rotated_log()
    return made.public_key.hex(), made_up(made)


def bundle(data: bytes) -> None:
    """One member is anything at all, in a ZIP that is sound. The first byte names it."""
    key, whole = members()
    name = list(whole)[data[0] % len(whole)] if data else CHECKPOINTS
    with tempfile.NamedTemporaryFile() as file, opened_bundle(written(Path(file.name), whole | {name: data[1:]})) as at:
        verified(at, trusted_by_key(at, key))
    unlike = data[1:] != whole[name]
    assert not unlike or name.endswith(".pem") or name == CHECKPOINTS, f"another {name} verifies"


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (entry, note, cosignature, log, plan, record, proposal, review, bundle)
}


def main() -> None:
    target = TARGETS[sys.argv[1]]

    def one(data: bytes) -> None:
        with contextlib.suppress(*OURS):
            target(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.stdin = io.TextIOWrapper(io.BytesIO())
    main()
