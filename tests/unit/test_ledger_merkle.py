"""RFC 6962 against the vectors that the Certificate Transparency projects publish, and against itself."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import InternalError, VerificationError
from privacy.ledger.merkle import (
    Frontier,
    Growth,
    Node,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from tests.merkle_oracle import nodes_of, slow_consistency, slow_inclusion, slow_root

ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
LEAVES = [leaf_hash(bytes.fromhex(entry)) for entry in ENTRIES]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = [  # leaf counted from 1, tree size, path
    (1, 1, []),
    (1, 8, [A, B, C]),
    (6, 8, [D, E, ROOTS[4]]),
    (3, 3, [ROOTS[2]]),
    (2, 5, [ROOTS[1], B, D]),
]
CONSISTENCY = [  # old size, new size, path
    (1, 1, []),
    (1, 8, [A, B, C]),
    (6, 8, [F, E, ROOTS[4]]),
    (2, 5, [B, D]),
]


def test_roots() -> None:
    growth = Growth()
    for size, expected in enumerate(ROOTS):
        assert root(LEAVES[:size]).hex() == growth.root().hex() == growth.frontier().root().hex() == expected
        if size < len(LEAVES):
            growth.append(LEAVES[size])


@pytest.mark.parametrize(("leaf", "size", "path"), INCLUSION)
def test_inclusion_vectors(leaf: int, size: int, path: list[str]) -> None:
    proof = inclusion_proof(nodes_of(LEAVES[:size]), size, leaf - 1)
    assert slow_inclusion(LEAVES[:size], leaf - 1) == proof
    assert [part.hex() for part in proof] == path
    verify_inclusion(LEAVES[leaf - 1], leaf - 1, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_consistency_vectors(old: int, new: int, path: list[str]) -> None:
    proof = consistency_proof(nodes_of(LEAVES[:new]), old, new)
    assert slow_consistency(LEAVES[:new], old) == proof
    assert [part.hex() for part in proof] == path
    verify_consistency(old, bytes.fromhex(ROOTS[old]), new, bytes.fromhex(ROOTS[new]), proof)


TREES = st.integers(1, 70).flatmap(
    lambda size: st.tuples(st.just(size), st.integers(1, size), st.integers(0, size - 1))
)
HASHES = [leaf_hash(number.to_bytes(2, "big")) for number in range(71)]


@given(TREES)
@settings(max_examples=150, deadline=None)
def test_every_proof_holds_and_no_altered_one_does(tree: tuple[int, int, int]) -> None:
    size, old, index = tree
    leaves, whole, before = HASHES[:size], root(HASHES[:size]), root(HASHES[:old])
    read = nodes_of(leaves)
    inclusion, consistency = inclusion_proof(read, size, index), consistency_proof(read, old, size)
    assert (whole, inclusion) == (slow_root(leaves), slow_inclusion(leaves, index))
    assert consistency == slow_consistency(leaves, old)
    verify_inclusion(leaves[index], index, size, inclusion, whole)
    verify_consistency(old, before, size, whole, consistency)
    for altered in _alterations(inclusion):
        with pytest.raises(VerificationError):
            verify_inclusion(leaves[index], index, size, altered, whole)
    for altered in _alterations(consistency):
        with pytest.raises(VerificationError):
            verify_consistency(old, before, size, whole, altered)
    with pytest.raises(VerificationError, match="signed root"):
        verify_inclusion(HASHES[70], index, size, inclusion, whole)
    with pytest.raises(VerificationError):
        verify_consistency(old, HASHES[70], size, whole, consistency)


def _alterations(proof: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    changed = [(*proof[:i], bytes([part[0] ^ 1]) + part[1:], *proof[i + 1 :]) for i, part in enumerate(proof)]
    return [*changed, (*proof, HASHES[70]), *([proof[:-1]] if proof else []), (*proof, b"short")]


def test_growing_in_place_gives_the_same_trees_and_every_node_once() -> None:
    growth, read, nodes = Growth(), nodes_of(HASHES), {}
    for place, leaf in enumerate(HASHES):
        for level, hashed in enumerate(growth.append(leaf), 1):
            assert nodes.setdefault((level, place >> level), hashed) == read([(level, place >> level)])[0]
        assert (growth.root(), growth.size) == (root(HASHES[: place + 1]), place + 1)
        assert Growth(growth.frontier()).root() == growth.frontier().root() == growth.root()
    assert len(nodes) == len(HASHES) - len(HASHES).bit_count()


@given(st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=200, deadline=None)
def test_growing_by_many_leaves_is_growing_by_each(lots: list[int]) -> None:
    many, one, leaves = Growth(), Growth(), iter(HASHES * 3)
    for lot in lots:
        new = [next(leaves) for _ in range(lot)]
        many.extend(new)
        for leaf in new:
            one.append(leaf)
        assert many.frontier() == one.frontier()


def test_proofs_read_few_nodes() -> None:
    counted: list[int] = []

    def read(nodes: Sequence[Node]) -> list[bytes]:
        counted.append(len(nodes))
        return [b"\x00" * 32] * len(nodes)

    size = 1_000_003
    for index in (0, 1, 524_287, 524_288, 999_999, 1_000_002):
        assert len(inclusion_proof(read, size, index)) <= 20
        assert len(consistency_proof(read, index + 1, size)) <= 21
        assert counted.pop() <= 40
        assert counted.pop() <= 40


def test_a_log_that_shrinks_is_named() -> None:
    with pytest.raises(VerificationError, match="from 5 to 4 entries: a log never shrinks"):
        verify_consistency(5, bytes.fromhex(ROOTS[5]), 4, bytes.fromhex(ROOTS[4]), ())
    with pytest.raises(VerificationError, match="two different roots"):
        verify_consistency(4, bytes.fromhex(ROOTS[5]), 4, bytes.fromhex(ROOTS[4]), ())


def test_a_leaf_cannot_pass_for_a_node() -> None:
    forged = leaf_hash(LEAVES[0] + LEAVES[1])
    assert forged.hex() != ROOTS[2]


def test_a_damaged_frontier_is_not_used() -> None:
    with pytest.raises(InternalError, match="hashes do not match its size"):
        Frontier(3, (b"x" * 32,))
    with pytest.raises(InternalError, match="no leaf 8 of 8"):
        inclusion_proof(nodes_of(LEAVES), 8, 8)
    with pytest.raises(InternalError, match="from size 0 to 8"):
        consistency_proof(nodes_of(LEAVES), 0, 8)
