"""RFC 6962, section 2.1, word for word over a list of leaf hashes: slow, and what the quick proofs are held against."""

from collections.abc import Sequence

from privacy.ledger.merkle import NodeReader, node_hash


def slow_root(leaves: Sequence[bytes]) -> bytes:
    """MTH(D[n]), n > 0, its leaves hashed already."""
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return node_hash(slow_root(leaves[:k]), slow_root(leaves[k:]))


def slow_inclusion(leaves: Sequence[bytes], m: int) -> tuple[bytes, ...]:
    """PATH(m, D[n]), section 2.1.1."""
    if len(leaves) == 1:
        return ()
    k = _split(len(leaves))
    if m < k:
        return (*slow_inclusion(leaves[:k], m), slow_root(leaves[k:]))
    return (*slow_inclusion(leaves[k:], m - k), slow_root(leaves[:k]))


def slow_consistency(leaves: Sequence[bytes], m: int, *, whole: bool = True) -> tuple[bytes, ...]:
    """SUBPROOF(m, D[n], whole), section 2.1.2."""
    if m == len(leaves):
        return () if whole else (slow_root(leaves),)
    k = _split(len(leaves))
    if m <= k:
        return (*slow_consistency(leaves[:k], m, whole=whole), slow_root(leaves[k:]))
    return (*slow_consistency(leaves[k:], m - k, whole=False), slow_root(leaves[:k]))


def nodes_of(leaves: Sequence[bytes]) -> NodeReader:
    """A reader that works every node out; it has none that reaches beyond the leaves."""

    def node(level: int, index: int) -> bytes:
        covered = leaves[index << level : (index + 1) << level]
        assert len(covered) == 1 << level, "no such node"
        return slow_root(covered)

    return lambda wanted: [node(*each) for each in wanted]


def _split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k
