"""What must be refused in a round, as `make_rounds` writes it.

A case has a name, inputs that replace those of some operations, the operation that must refuse, and a piece of the
sentence with which it does. Where only a valid signature makes it a case, the statement is signed by the silo that it
names.
"""

import hashlib
import json
from base64 import b64decode, b64encode
from copy import deepcopy

import numpy as np

from certs.wallet import Wallet
from privacy.canonical import canonical_json
from privacy.ckks.fingerprint import encode as encode_fingerprint
from privacy.ckks.fingerprint import fingerprint_of
from privacy.ckks.layout import chunk_leaf, chunks_root
from privacy.ckks.shares import FIELD, encode_share
from privacy.keyed import mail_digests, mails_digest, receivers_of
from privacy.keyed_mail import seal_release
from tests.vectors.replay import Replay

ZEROS = "0" * 64


def packed(data):
    return b64encode(data).decode()


def flipped(data, at=0):
    """The same bytes, in base64, with one bit changed."""
    raw = bytearray(b64decode(data))
    raw[at] ^= 1
    return packed(bytes(raw))


class Negatives:
    def __init__(self, world, operations):
        self.world, self.operations, self.cases = world, operations, []

    # -- how cases are written -----------------------------------------------------------------------------------------

    def at(self, op):
        """The number of the first operation of this kind."""
        return next(i for i, each in enumerate(self.operations) if each["op"] == op)

    def no(self, name, operation, refused, **inputs):
        self.no_at(name, operation, refused, {operation: inputs})

    def no_at(self, name, refused_by, refused, changes):
        told = {str(number): inputs for number, inputs in changes.items()}
        self.cases.append({"name": name, "changes": told, "refused_by": refused_by, "refused": refused})

    def sign(self, entry, by=None, **changes):
        """A statement with other fields, signed by whom it names, or by `by`."""
        body = {**json.loads(entry["body"]), **changes}
        signer = by or body.get("silo") or body["aggregator"]
        folder = self.world.state.root if signer == "aggregator" else self.world.silos[signer].state
        data = canonical_json(body)
        signature = Wallet(folder / "wallet").identity().sign(body["type"].encode() + b"\x00" + data)
        return {"body": data.decode(), "signature": signature.hex()}

    def other(self, operation, name, value, index=0):
        """The list `name` of an operation with another element."""
        found = deepcopy(self.operations[operation][name])
        found[index] = value
        return {name: found}

    def replayed(self, until, changes):
        """The state after the operations before `until`, with other inputs for some."""
        replay = Replay()
        for number, operation in enumerate(self.operations[:until]):
            replay.run({**operation, **changes.get(number, {})})
        return replay.at

    # -- both suites ---------------------------------------------------------------------------------------------------

    def of_both(self):
        self.of_plan_and_roll()
        self.of_updates()
        self.of_commit()
        self.of_fingerprints_and_sum()
        self.of_certificate()
        applied = self.at("applied")
        report = self.operations[applied]["applied"][0]
        another = self.other(applied, "applied", self.sign(report, adapter=ZEROS))
        self.no("another adapter than the others'", applied, "computed is another one", **another)
        packed_zeros = packed(bytes(len(b64decode(self.operations[self.at("apply")]["adapter"])) - 4))
        self.no("an adapter to begin with that is too short", self.at("apply"), "began with", adapter=packed_zeros)

    def of_plan_and_roll(self):
        plan = json.loads(self.operations[0]["plan"])
        small = {**plan, "cohort": {**plan["cohort"], "minimum": 1}}
        self.no(
            "a plan for sums of one",
            0,
            "cohort.minimum: Input should be greater than or equal to 2",
            plan=canonical_json(small).decode(),
        )
        self.no("a plan with an unknown field", 0, "x: Extra", plan=canonical_json({**plan, "x": 1}).decode())
        unknown = {**plan, "parameters": "huge"}
        self.no("an unknown parameter set", 0, "no parameter set", plan=canonical_json(unknown).decode())
        joins = self.operations[1]["joins"]
        mixed = {**joins[0], "signature": joins[1]["signature"]}
        self.no("a job join with another's signature", 1, "the signature is not", **self.other(1, "joins", mixed))
        self.no("a silo twice in the job's roll", 1, "joined twice", joins=[*joins, joins[0]])
        announce = self.at("announce")
        names = self.operations[announce]["participants"]
        self.no("a round number beyond the plan's", announce, "is outside", round=999)
        self.no("participants out of order", announce, "sorted, each once", participants=names[::-1])
        self.no("a participant who is not in the roll", announce, "members of the roll", participants=[*names, "zed"])
        self.no("too few participants", announce, "has 1 participants", participants=names[:1])

    def of_updates(self):
        update = self.at("update")
        header, chunk = self.operations[update]["header"], b64decode(self.operations[update]["chunks"][0])
        self.no("an update of another round", update, "is bound to round 2", header=self.sign(header, round=2))
        self.no("an update of another length", update, "the plan has", header=self.sign(header, values=7))
        forged = self.sign(header, by="west" if json.loads(header["body"])["silo"] != "west" else "east")
        self.no("an update signed by another silo", update, "the signature is not", header=forged)
        self.no("a truncated chunk", update, "is truncated", chunks=[packed(chunk[:-4])])
        self.no("an oversized chunk", update, "is oversized", chunks=[packed(chunk + bytes(4))])
        self.no("a residue that is not reduced", update, "is not reduced", chunks=[packed(b"\xff" * 8 + chunk[8:])])
        self.no("a chunk that was altered", update, "another root than its header", chunks=[flipped(packed(chunk))])
        self.no("a chunk that is missing", update, "has 0 chunks", chunks=[])

    def of_commit(self):
        at = self.at("commit")
        commit, headers = self.operations[at]["commit"], self.operations[at]["headers"]
        members = json.loads(commit["body"])["members"]
        self.no("a commit signed by a silo", at, "the signature is not", commit=self.sign(commit, by="west"))
        twice = self.sign(commit, members=[members[0], *members])
        self.no("a member counted twice", at, "each silo exactly once", commit=twice, headers=[headers[0], *headers])
        self.no("a header left out", at, "its members are not those", headers=headers[1:])
        alone = self.sign(commit, members=members[:1])
        self.no("a sum of one", at, "the plan's minimum", commit=alone, headers=headers[:1])
        self.no("a commit of another round", at, "is bound to round 2", commit=self.sign(commit, round=2))

    def of_fingerprints_and_sum(self):
        at, total = self.at("fingerprints"), self.at("sum")
        prints, chunks = self.operations[at]["fingerprints"], self.operations[total]["chunks"]
        elsewhere = self.other(at, "fingerprints", self.sign(prints[0], commit=ZEROS))
        self.no("a fingerprint under another commit", at, "under another commit", **elsewhere)
        self.no("a fingerprint that is missing", at, "not those of the sum's members", fingerprints=prints[1:])
        exchanged = self.sign(prints[0], value=json.loads(prints[1]["body"])["value"])
        wrong = self.other(at, "fingerprints", exchanged)
        self.no("a fingerprint of another ciphertext", at, "is not of its ciphertext", **wrong)
        self.no("a sum that was not committed to", total, "H(C) differs", chunks=[flipped(chunks[0])])
        self.no_at("a committed sum that is not its members'", total, "the fingerprints differ", self.wrong_sum())

    def wrong_sum(self):
        """The aggregator commits to an altered sum; every member's fingerprint is right."""
        commit, prints, total = self.at("commit"), self.at("fingerprints"), self.at("sum")
        chunks = [flipped(self.operations[total]["chunks"][0])]
        root = chunks_root([chunk_leaf(b64decode(chunk)) for chunk in chunks]).hex()
        changes = {commit: {"commit": self.sign(self.operations[commit]["commit"], sum_root=root)}}
        state = self.replayed(commit + 1, changes)
        answers = []
        for entry in self.operations[prints]["fingerprints"]:
            sealed = state.updates[json.loads(entry["body"])["silo"]].chunks
            value = encode_fingerprint(fingerprint_of(state.layout, state.commit.digest, sealed))
            answers.append(self.sign(entry, commit=state.commit.digest.hex(), value=value))
        return {**changes, prints: {"fingerprints": answers}, total: {"chunks": chunks}}

    def of_certificate(self):
        at = self.at("certificate")
        consents = self.operations[at]["consents"]
        self.no("a certificate of too few", at, "has 1 consents", consents=consents[:1])
        self.no("one consent counted often", at, "has 1 consents", consents=[consents[0]] * len(consents))
        other = self.other(at, "consents", self.sign(consents[0], transcript=ZEROS))
        self.no("a consent to another transcript", at, "consented to another transcript", **other)
        old = self.other(at, "consents", self.sign(consents[0], round=2))
        self.no("a consent of another round", at, "is bound to round 2", **old)

    # -- ckks-group ----------------------------------------------------------------------------------------------------

    def of_group(self):
        self.of_both()
        at, update, joins = self.at("deal"), self.at("update"), self.at("joins")
        deal = self.operations[at]
        third = next(name for name in ("east", "north", "west") if name not in (deal["to"], deal["gives"]["dealer"]))
        self.no("a mail with one bit changed", at, "is not the one that was signed", mail=flipped(deal["mail"]))
        self.no("a mail shown to another silo", at, "is not the one that was signed", to=third)
        committed = self.sign(deal["deal"], key_commitment=ZEROS)
        self.no("a deal of another key than was mailed", at, "is not the one that the deal commits to", deal=committed)
        self.no(
            "a deal by who is not the dealer", at, "this roll's dealer is", deal=self.sign(deal["deal"], silo=third)
        )
        seeds = self.operations[update]["seeds"]
        self.no("other seeds than the header's", update, "has other seeds than its header", seeds=flipped(seeds))
        missing = self.operations[joins]["joins"][1:]
        self.no("a round that goes on without a join", joins, "goes on with joins of", joins=missing)
        return self.cases

    # -- ckks-multikey -------------------------------------------------------------------------------------------------

    def of_multikey(self):
        self.of_both()
        self.of_round_roll()
        self.of_shares()
        self.of_releases()
        self.of_keys()
        return self.cases

    def of_round_roll(self):
        at, update = self.at("round roll"), self.at("update")
        joins = self.operations[at]["joins"]
        keys = json.loads(joins[1]["body"])
        self.no("a round that goes on without a join", at, "goes on without a join of east", joins=joins[1:])
        self.no("two joins of one silo", at, "has two joins of east", joins=[*joins, joins[0]])
        old = self.other(at, "joins", self.sign(joins[0], round=2))
        self.no("a join of another round", at, "is bound to round 2", **old)
        copied = self.other(at, "joins", self.sign(joins[0], share_key=keys["share_key"]))
        self.no("another silo's key in a join", at, "has one key in two joins", **copied)
        single = self.other(at, "joins", self.sign(joins[1], share_key=keys["open_key"]), 1)
        self.no("one key for both purposes", at, "must be two keys", **single)
        broken = self.other(at, "joins", self.sign(joins[0], share_key="ff" * 1216))
        self.no("a key that nobody can seal to", at, "is not an MLKEM768_X25519 public key", **broken)
        header = self.operations[update]["header"]
        self.no("an update for other joins", update, "made for other joins", header=self.sign(header, roll=ZEROS))
        digests = self.operations[update]["mails"]
        self.no("other mails than the header's", update, "are not the 4 that were signed", mails=ZEROS + digests[64:])
        self.no("mails for fewer participants", update, "are not the 4 that were signed", mails=digests[64:])

    def of_shares(self):
        at = self.at("share")
        share, another = self.operations[at], self.operations[at + 1]
        self.no("a share mail shown to another silo", at, "is not the one that was signed", to="north")
        self.no("another sender's share mail", at, "is not the one that was signed", mail=another["mail"])
        self.no("a share mail with one bit changed", at, "is not the one that was signed", mail=flipped(share["mail"]))
        self.no("digests of other mails", at, "are not the 4 that were signed", digests=another["digests"])
        release = self.operations[self.at("release")]
        self.no("a share mail and the other key of a join", at, "does not open", share_key=release["open_key"])
        prints = self.at("fingerprints")
        answer = self.operations[prints]["fingerprints"][0]
        slander = self.other(prints, "fingerprints", self.sign(answer, unopened=["zed"]))
        self.no("unopened mails of who is no member", prints, "names mails that there are none of", **slander)

    def of_releases(self):
        at = self.at("release")
        mine, another = self.operations[at], self.operations[at + 1]
        other = self.sign(mine["release"], transcript=ZEROS)
        self.no("a release for another transcript", at, "for another transcript", release=other)
        self.no("a release of another round", at, "is bound to round 2", release=self.sign(mine["release"], round=2))
        self.no("another body than was signed", at, "another body than was signed", body=another["body"])
        self.no("a mail to another receiver", at, "is not the one that was signed", to="north")
        self.no("another release's mail", at, "is not the one that was signed", mail=another["mail"])
        body = flipped(mine["body"])
        resigned = self.sign(mine["release"], body_sha256=hashlib.sha256(b64decode(body)).hexdigest())
        self.no("a body that its key does not open", at, "does not open with the key", release=resigned, body=body)
        unreduced = self.released(mine, lambda share: np.full_like(share, FIELD))
        self.no("a sum of shares that is not reduced", at, "is not reduced modulo 65521", **unreduced)
        self.no("a sum of shares that is too short", at, "is truncated", **self.released(mine, lambda share: share[1:]))

    def of_keys(self):
        at, keys = self.at("release"), self.at("keys")
        garbage, second = (
            self.released(self.operations[place], lambda share: (share.astype(np.uint32) * 7 + 1) % FIELD)
            for place in (at, at + 1)
        )
        two = {at: garbage, at + 1: second}
        self.no_at("two wrong sums of shares of four", keys, "more than 0 of the shares", two)
        three = {"of": ["east", "north", "south"]}
        self.no_at("one wrong sum of shares of three", keys, "is beyond +-", {at: garbage, keys: three})
        self.no("fewer sums of shares than it takes", keys, "threshold", of=["east", "north"])

        def moved(share):
            """The sum of keys comes out with 1 more in its first coefficient, for points 1, 2 and 3."""
            found = share.astype(np.int64)
            found[0] = (found[0] + pow(3, -1, FIELD)) % FIELD  # 3 is the factor of point 1 at 0
            return found

        near = {at: self.released(self.operations[at], moved), keys: three}
        self.no_at("a sum of keys that is off by one", self.at("open"), "more noise than 4 have", near)

    def released(self, operation, change):
        """A release like another, properly sealed and signed, of another sum of shares."""
        state = self.replayed(len(self.operations), {})
        silo, to = operation["gives"]["silo"], operation["to"]
        receivers = receivers_of(state.roll, state.round_roll)
        data = encode_share(change(state.sums[silo]).astype(np.uint16))
        sealed = seal_release(state.ctx, state.transcript.digest, silo, data, receivers)
        digests = mail_digests(sealed.mails)
        stated = {"body_sha256": hashlib.sha256(sealed.body).hexdigest(), "mails": mails_digest(digests)}
        return {
            "release": self.sign(operation["release"], **stated),
            "body": packed(sealed.body),
            "digests": digests.hex(),
            "mail": packed(sealed.mails[list(receivers).index(to)]),
        }
