"""Coverage-guided fuzzing of what an auditor's tool decodes: a parse, or an error of ours; a parse encodes back alike.

python -m tests.fuzz.decoders entry|note|plan|record|proposal|review|bundle [atheris' options, a corpus folder]
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["privacy", "runtime"]):
    from privacy.errors import ConfigError, ProtocolError, VerificationError
    from privacy.ledger.checkpoint import parse_note, split_notes
    from privacy.ledger.codec import decode_any, decode_entry, encode_entry
    from privacy.ledger.cosignature import cosignatures
    from privacy.plan import JobPlan
    from privacy.record import RoundRecord, check_record
    from privacy.review import SignedReview
    from privacy.two_person import Proposal
    from runtime.bundle import opened_bundle

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
    for each in split_notes(text) or (text,):
        parsed = parse_note(each)
        assert parsed.text == parsed.checkpoint.text() or not each.startswith(parsed.checkpoint.text())
        cosignatures(each, {name: bytes(32) for name, _ in parsed.signatures})


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


def bundle(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with opened_bundle(Path(file.name)) as opened:
            list(opened.entries()), opened.notes(), opened.leaves(), opened.openings(), opened.cards()


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (entry, note, plan, record, proposal, review, bundle)
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
