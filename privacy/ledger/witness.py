"""What a witness decides, and what a log's owner learns from its witnesses. Pure: checkpoints and proofs in.

A witness remembers of each log the largest checkpoint it has seen, and cosigns only what continues it. The owner signed
every checkpoint of its log itself, so that one which it does not recognise proves, without believing anybody, that its
state was rolled back, forked or cloned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from privacy.errors import VerificationError
from privacy.ledger.checkpoint import Checkpoint
from privacy.ledger.merkle import EMPTY_ROOT, verify_consistency

RECOVER: Final = (
    "Stop every agent of this institution but the one with the newest state, and go on with that one. If the newest "
    "state is lost, what was spent since is not known: export this ledger for the auditors, count the populations' "
    "budgets as spent, and enrol under a new name (docs/how-to/run-a-silo.md)."
)


@dataclass(frozen=True)
class Proof:
    """That a checkpoint continues the log of `old_size` entries; empty hashes where both are of one size."""

    old_size: int
    hashes: tuple[bytes, ...]


class RewrittenError(VerificationError):
    """A log's owner signed two states of which neither continues the other. Both checkpoints are the evidence."""


def check_continues(seen: Checkpoint | None, new: Checkpoint, proofs: Sequence[Proof]) -> bool:
    """Whether a witness that saw `seen` last may cosign `new`. False: an older state, or a proof is still missing.

    Raises RewrittenError if the two contradict each other. `new` is verified to be the owner's before.
    """
    if seen is None or seen.size == 0:
        return True
    if new.size < seen.size:
        return False
    if new.size == seen.size:
        if new.root != seen.root:
            raise _rewritten(new, f"two states of {new.size} entries are signed")
        return True
    proof = next((proof for proof in proofs if proof.old_size == seen.size), None)
    if proof is None:
        return False
    try:
        verify_consistency(seen.size, seen.root, new.size, new.root, proof.hashes)
    except VerificationError as error:
        why = f"its {new.size} entries do not begin with the {seen.size} that it signed before"
        raise _rewritten(new, why) from error
    return True


def check_own(known: Checkpoint | None, size: int, root_at: Callable[[int], bytes]) -> None:
    """What others hold of one's own log fits the state at hand, of `size` entries; `root_at` gives its roots.

    `known` is signed by the log's own key. Raises RewrittenError saying what happened and how to recover.
    """
    if known is None:
        return
    what = f"ledger {known.origin}"
    if known.size > size:
        why = f"this state has {size} entries, and {known.size} were signed for with this log's key: it was rolled back"
        raise RewrittenError(what, f"{why}, a backup was restored or a copy of the folder runs elsewhere", RECOVER)
    own = root_at(known.size) if known.size else EMPTY_ROOT
    if own != known.root:
        why = f"another state of {known.size} entries was signed for with this log's key: it was forked or cloned"
        raise RewrittenError(what, why, RECOVER)


def _rewritten(new: Checkpoint, why: str) -> RewrittenError:
    step = "Keep both checkpoints: they prove it. Ask the institution, and the auditor."
    return RewrittenError(f"ledger {new.origin}", why, step)
