"""The Merkle tree of RFC 6962, section 2.1: hashes, roots, an append in O(log n), and the two proofs.

Verification after RFC 9162, sections 2.1.3.2 and 2.1.4.2. Hashes are SHA-256; leaves are hashed apart from nodes
(0x00 and 0x01 in front), so that no entry can pass for a subtree. Checks raise VerificationError.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privacy.canonical import DIGEST_BYTES
from privacy.errors import InternalError, VerificationError

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry (32 bytes)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees' hashes (32 bytes)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """All that an append needs: the size and the roots of the perfect subtrees, the largest first (at most 64)."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Raises InternalError unless there is one 32-byte peak per bit that is set in the size."""
        if len(self.peaks) != self.size.bit_count() or any(len(peak) != DIGEST_BYTES for peak in self.peaks):
            raise InternalError("ledger frontier", "its hashes do not match its size", "Verify the ledger.")

    def append(self, leaf: bytes) -> "Frontier":
        """The frontier with one more leaf hash."""
        peaks, hashed, size = list(self.peaks), leaf, self.size
        while size & 1:
            hashed, size = node_hash(peaks.pop(), hashed), size >> 1
        return Frontier(self.size + 1, (*peaks, hashed))

    def root(self) -> bytes:
        """The tree's root hash; of no leaves, SHA-256 of nothing."""
        if not self.peaks:
            return EMPTY_ROOT
        *rest, hashed = self.peaks
        for peak in reversed(rest):
            hashed = node_hash(peak, hashed)
        return hashed


def root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """PATH(index, leaves) of RFC 6962, 2.1.1. Raises InternalError if there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise InternalError("inclusion proof", f"there is no leaf {index} of {len(leaves)}", "Report this.")
    if len(leaves) == 1:
        return ()
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if index < split:
        return (*inclusion_proof(left, index), root(right))
    return (*inclusion_proof(right, index - split), root(left))


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """PROOF(old_size, leaves) of RFC 6962, 2.1.2. Raises InternalError unless 0 < old_size <= the number of leaves."""
    if not 0 < old_size <= len(leaves):
        raise InternalError("consistency proof", f"from size {old_size} to {len(leaves)}", "Report this.")
    return _subproof(leaves, old_size, whole=True)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> None:
    """Check that the leaf hash stands at `index` of the tree of this size and root."""
    what = f"inclusion proof of entry {index} in {size}"
    if not 0 <= index < size:
        raise VerificationError(what, "there is no such entry in a tree of this size", _NEXT)
    position, last, hashed = index, size - 1, leaf
    for sibling in _hashes(what, proof):
        if last == 0:
            raise VerificationError(what, "the proof is too long", _NEXT)
        if position & 1 or position == last:
            hashed = node_hash(sibling, hashed)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            hashed = node_hash(hashed, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or hashed != expected_root:
        raise VerificationError(what, "it does not lead to the signed root", _NEXT)


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of the new size and root begins with the one of the old size and root."""
    what = f"consistency proof from {old_size} to {new_size} entries"
    if not 0 < old_size <= new_size:
        raise VerificationError(what, "a log never shrinks and starts from one entry", _NEXT)
    path = _hashes(what, proof)
    if old_size == new_size:
        if path or old_root != new_root:
            raise VerificationError(what, "two different roots are signed for one size", _NEXT)
        return
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    if not old_size & (old_size - 1):  # a perfect tree is its own first node
        path = (old_root, *path)
    if not path:
        raise VerificationError(what, "the proof is too short", _NEXT)
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise VerificationError(what, "the proof is too long", _NEXT)
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    if last != 0 or old != old_root or new != new_root:
        raise VerificationError(what, "the newer log does not begin with the older one", _NEXT)


_NEXT = "Ask the institution for its log again and keep both answers; a log that was rewritten shows exactly this."


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _subproof(leaves: Sequence[bytes], old_size: int, *, whole: bool) -> tuple[bytes, ...]:
    if old_size == len(leaves):
        return () if whole else (root(leaves),)
    split = _split(len(leaves))
    left, right = leaves[:split], leaves[split:]
    if old_size <= split:
        return (*_subproof(left, old_size, whole=whole), root(right))
    return (*_subproof(right, old_size - split, whole=False), root(left))


def _hashes(what: str, proof: Sequence[bytes]) -> tuple[bytes, ...]:
    if len(proof) > 64 or any(len(part) != DIGEST_BYTES for part in proof):
        raise VerificationError(what, "the proof is not a list of hashes", _NEXT)
    return tuple(proof)
