"""A bundle's members with one thing changed, as somebody can who makes the ZIP anew: its checksums are right.

Each mutation is drawn from a seed and has a name: the member, the place in it, what was done there. Members are taken
apart as what they are: entries one by one, JSON node by node (also in texts that are JSON), notes line by line,
certificates byte by byte inside of what their issuer signed. What may be missing without harm is left where it is:
signature lines of checkpoints, and some of those statements of a round of which it takes a part.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from privacy.canonical import canonical_json
from privacy.ledger.merkle import leaf_hash
from runtime.bundle_form import CHECKPOINTS, ENTRIES, LEAVES
from tests.bundles import Members

OTHER_HEX = str.maketrans("0123456789abcdef", "123456789abcdef0")
SPARE = ("/consents", "/applied", "/releases")  # lists of a transcript of which a part proves the same
ODD: tuple[Any, ...] = (None, True, 0, -1, 1e-9, 2**53 - 1, "", "x", [], {})


@dataclass(frozen=True)
class Mutation:
    """Which member, where in it, and what was done; the members of the altered bundle."""

    member: str
    place: str
    done: str
    members: Members

    def __str__(self) -> str:
        return f"{self.member[:24]} {self.place}: {self.done}"


def mutations(members: Members, number: int, seed: int = 0) -> Iterator[Mutation]:
    """So many of each member; none leaves it as it was."""
    for name, content in members.items():
        draw = Random(f"{seed} {name.split('/')[0]} {name.rpartition('-')[2]}")
        for _ in range(number):
            yield mutated(members, name, content, draw)


def mutated(members: Members, name: str, content: bytes, draw: Random) -> Mutation:
    """One of this member."""
    while True:
        place, done, changed = _changed(name, content, draw)
        if changed != content:
            break
    altered = members | {name: changed}
    if name == ENTRIES and draw.random() < 0.5:  # by somebody who also makes the list of hashes fit
        done += ", and listed"
        altered |= {LEAVES: "".join(f"{leaf_hash(line).hex()}\n" for line in changed.splitlines()).encode()}
    return Mutation(name, place, done, altered)


def _changed(name: str, content: bytes, draw: Random) -> tuple[str, str, bytes]:
    if name.endswith(".json"):
        place, done, value = json_changed(json.loads(content), draw)
        return place, done, canonical_json(value)
    if name.endswith(".pem"):
        return certificate_changed(content, draw)
    if name.endswith(".jsonl"):
        return lines_changed(content.splitlines(), draw)
    lines = content.decode().splitlines(keepends=True)
    place = draw.randrange(len(lines))
    at = draw.randrange(len(lines[place]) - 1) if len(lines[place]) > 1 else 0
    what = draw.choice(["changed", "changed", "doubled", "dropped"])
    if what == "dropped" and (name != CHECKPOINTS or not lines[place].startswith("—")):
        lines[place] = ""
    elif what == "doubled":
        lines[place] *= 2
    else:
        what = "changed"
        lines[place] = lines[place][:at] + draw.choice("abcXYZ019/+ =—é") + lines[place][at + 1 :]
    return f"line {place}", what, "".join(lines).encode()


def lines_changed(lines: list[bytes], draw: Random) -> tuple[str, str, bytes]:
    """One line, which is JSON, altered, left out, doubled, or in another's place."""
    at, what = draw.randrange(len(lines)), draw.choice(["", "", "", "dropped", "doubled", "swapped"])
    place, lines = f"line {at}", list(lines)
    if what:
        _list_changed(lines, at, what, draw)
    else:
        inner, what, value = json_changed(json.loads(lines[at]), draw)
        place, lines[at] = f"{place} {inner}", canonical_json(value)
    return place, what, b"".join(line + b"\n" for line in lines)


def json_changed(value: Any, draw: Random) -> tuple[str, str, Any]:
    """The value with one node of it altered."""
    value = json.loads(json.dumps(value))
    parent, key, path = draw.choice([node for node in _nodes(value, "") if node[0] is not None])
    old = parent[key]
    if isinstance(parent, list) and draw.random() < 0.5:
        what = draw.choice(["doubled", "swapped", *([] if path.rpartition("/")[0] in SPARE else ["dropped"])])
        _list_changed(parent, key, what, draw)
        return path, what, value
    if isinstance(parent, dict) and draw.random() < 0.2:
        del parent[key]
        return path, "left out", value
    if isinstance(old, str) and old.startswith("{"):
        inner, what, changed = json_changed(json.loads(old), draw)
        parent[key] = canonical_json(changed).decode()
        return f"{path} {inner}", what, value
    parent[key] = _other(old, draw)
    return path, "changed", value


def certificate_changed(pem: bytes, draw: Random) -> tuple[str, str, bytes]:
    """Another bit somewhere in the first 200 bytes, which the issuer signed."""
    head, *lines, end = pem.splitlines(keepends=True)
    der = bytearray(base64.b64decode(b"".join(lines)))
    at = draw.randrange(8, 200)
    der[at] ^= 1 << draw.randrange(8)
    return f"byte {at}", "changed", head + base64.encodebytes(bytes(der)) + end


def _other(old: Any, draw: Random) -> Any:
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float) and abs(old) < 2**50 and draw.random() < 0.7:
        return draw.choice([old + 1, -old - 1, old * 2 + 1, old + 0.5])
    if isinstance(old, str) and old and draw.random() < 0.7:
        at = draw.randrange(len(old))
        return old[:at] + (old[at].translate(OTHER_HEX) if old[at] in "0123456789abcdef" else "z") + old[at + 1 :]
    return draw.choice([odd for odd in ODD if odd != old or type(odd) is not type(old)])


def _list_changed(items: list[Any], at: int, what: str, draw: Random) -> None:
    other = draw.randrange(len(items))
    match what:
        case "dropped":
            del items[at]
        case "doubled":
            items.insert(at, items[at])
        case _:
            items[at], items[other] = items[other], items[at]


def _nodes(value: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """Each node with what holds it and by which key."""
    if isinstance(value, dict):
        pairs: list[tuple[Any, Any]] = list(value.items())
    else:
        pairs = list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in pairs:
        yield value, key, f"{path}/{key}"
        yield from _nodes(inner, f"{path}/{key}")
