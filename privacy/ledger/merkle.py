"""The Merkle tree of RFC 6962, section 2.1: hashes, roots, an append and the two proofs in O(log n).

Verification after RFC 9162, sections 2.1.3.2 and 2.1.4.2. Hashes are SHA-256; leaves are hashed apart from nodes
(0x00 and 0x01 in front), so that no entry can pass for a subtree. Checks raise VerificationError.

A *node* is the root over a perfect subtree: that of level k and index i covers the leaves i * 2^k to (i + 1) * 2^k,
this one excluded; level 0 are the leaves. Once its last leaf is there it never changes, and an append completes one
node above the leaves on average, so a log that keeps its nodes proves anything from about 2 log n of them.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
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

    def root(self) -> bytes:
        """The tree's root hash; of no leaves, SHA-256 of nothing."""
        return _joined(self.peaks) if self.peaks else EMPTY_ROOT


class Growth:
    """A frontier that grows in place: for many leaves one after the other."""

    def __init__(self, frontier: Frontier | None = None) -> None:
        self.size = 0 if frontier is None else frontier.size
        self._peaks = [] if frontier is None else list(frontier.peaks)

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf hash, in place `size`. Returns the nodes that it completes: the k-th, counted from 1, is that of
        level k and index `size` >> k.
        """
        hashed, size, peaks = leaf, self.size, self._peaks
        completed = []
        while size & 1:
            hashed, size = node_hash(peaks.pop(), hashed), size >> 1
            completed.append(hashed)
        peaks.append(hashed)
        self.size += 1
        return completed

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add many leaf hashes: as `append` for each, in half the time."""
        start = 0
        while start < len(leaves):
            room = self.size & -self.size or len(leaves)  # leaves of the largest perfect subtree that may begin here
            level = min(room, len(leaves) - start).bit_length() - 1
            nodes = leaves[start : start + (1 << level)]
            for _ in range(level):
                nodes = [node_hash(left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
            hashed, above = nodes[0], self.size >> level
            while above & 1:
                hashed, above = node_hash(self._peaks.pop(), hashed), above >> 1
            self._peaks.append(hashed)
            self.size += 1 << level
            start += 1 << level

    def root(self) -> bytes:
        """As of a frontier."""
        return _joined(self._peaks) if self._peaks else EMPTY_ROOT

    def frontier(self) -> Frontier:
        """As it is now."""
        return Frontier(self.size, tuple(self._peaks))


def root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    growth = Growth()
    growth.extend(tuple(leaves))
    return growth.root()


Node = tuple[int, int]
"""The level and the index of a node."""

NodeReader = Callable[[Sequence[Node]], Sequence[bytes]]
"""The hashes of nodes that the tree has, in the order asked."""


def root_at(read: NodeReader, size: int) -> bytes:
    """The root over the first `size` leaves, from at most log n nodes."""
    return _roots(read, [(0, size)])[0] if size else EMPTY_ROOT


def inclusion_proof(read: NodeReader, size: int, index: int) -> tuple[bytes, ...]:
    """PATH(index, D[size]) of RFC 6962, 2.1.1, from at most 2 log n nodes. Raises InternalError without such a leaf."""
    if not 0 <= index < size:
        raise InternalError("inclusion proof", f"there is no leaf {index} of {size}", "Report this.")
    ranges: list[tuple[int, int]] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    return _roots(read, ranges[::-1])


def consistency_proof(read: NodeReader, old_size: int, size: int) -> tuple[bytes, ...]:
    """PROOF(old_size, D[size]) of RFC 6962, 2.1.2, from at most 2 log n nodes.

    Raises InternalError unless 0 < old_size <= size.
    """
    if not 0 < old_size <= size:
        raise InternalError("consistency proof", f"from size {old_size} to {size}", "Report this.")
    ranges: list[tuple[int, int]] = []
    begin, end = 0, size
    while old_size != end:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    if begin:  # else it is the old root itself, which the verifier has
        ranges.append((begin, end))
    return _roots(read, ranges[::-1])


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


def _roots(read: NodeReader, ranges: Sequence[tuple[int, int]]) -> tuple[bytes, ...]:
    """The root over the leaves of each range, from its first to before its last; all nodes are read at once."""
    covers = [_cover(begin, end) for begin, end in ranges]
    hashes = iter(read([node for cover in covers for node in cover]))
    return tuple(_joined([next(hashes) for _ in cover]) for cover in covers)


def _cover(begin: int, end: int) -> list[Node]:
    """The nodes that a range is made of; it begins at a multiple of a power of two that is not less than its length."""
    nodes = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        nodes.append((level, begin >> level))
        begin += 1 << level
    return nodes


def _joined(nodes: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees that follow one another, each smaller than the one before it."""
    hashed = nodes[-1]
    for node in reversed(nodes[:-1]):
        hashed = node_hash(node, hashed)
    return hashed


def _hashes(what: str, proof: Sequence[bytes]) -> tuple[bytes, ...]:
    if len(proof) > 64 or any(len(part) != DIGEST_BYTES for part in proof):
        raise VerificationError(what, "the proof is not a list of hashes", _NEXT)
    return tuple(proof)
