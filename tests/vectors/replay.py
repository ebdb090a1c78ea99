"""Replays a round's transcript (tests/vectors/v1/round-*.json) with the product's own checks, operation by operation.

A file has a list of operations, each with its inputs and what it `gives`, and a list of negatives: inputs that
replace those of some operations, by number, the operation that must refuse, and a piece of the sentence with which it
does. Statements are their canonical body as text and their signature in hexadecimal; chunks, mails and bodies are in
base64, all else of bytes in hexadecimal. Keys that a file shows belong to silos that never existed.
"""

import hashlib
import os
from base64 import b64decode
from types import SimpleNamespace

import numpy as np

from privacy.ckks import multikey
from privacy.ckks.fingerprint import encode as encode_fingerprint
from privacy.ckks.fingerprint import fingerprint_of, root_and_fingerprint
from privacy.ckks.group import GroupKey, open_sum
from privacy.ckks.layout import chunk_leaf, chunks_root
from privacy.ckks.layouts import layout_of
from privacy.ckks.params import GroupParams
from privacy.ckks.shares import add_shares, candidates, check_share
from privacy.envelope import read_header
from privacy.errors import ProtocolError
from privacy.flatten import adapter_digest, coordinate_ranges
from privacy.keyed import check_mail, check_release, check_round_roll, keyed_headers, receivers_of, require_mails
from privacy.keyed_mail import open_release, open_share
from privacy.mail import MailKey
from privacy.plan import JobPlan, RoundContext
from privacy.quantise import mean_from_sum
from privacy.record import SignedText
from privacy.roll import check_deal, check_roll
from privacy.server import first_moments, server_step
from privacy.statement import verify
from privacy.transcript import (
    Applied,
    check_certificate,
    check_commit,
    check_fingerprints,
    check_joins,
    check_round,
    group_headers,
    require_round,
    require_sum,
)


def signed(entry):
    return SignedText.model_validate(entry).signed


def all_signed(entries):
    return [signed(entry) for entry in entries]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Replay:
    """The state of a round as it is checked; each method is an operation and returns what it gives."""

    def __init__(self):
        self.at = SimpleNamespace(updates={}, shares={}, sums={})

    def run(self, operation):
        """Do one operation of a file. Raises CloisterError where it does not hold."""
        inputs = {name: value for name, value in operation.items() if name not in ("op", "gives")}
        return getattr(self, operation["op"].replace(" ", "_"))(**inputs)

    def plan(self, plan):
        at = self.at
        at.plan = JobPlan.decode(plan.encode())
        at.layout = layout_of(at.plan)
        return {"digest": at.plan.digest().hex(), "residue_bytes": at.layout.residue_bytes, "chunks": at.layout.chunks}

    def job_roll(self, joins):
        self.at.roll = check_roll(self.at.plan, all_signed(joins))
        return {"digest": self.at.roll.digest.hex(), "members": list(self.at.roll.members)}

    def deal(self, deal, to, mail, mail_key):
        at, sealed = self.at, b64decode(mail)
        found = check_deal(at.plan, at.roll, signed(deal), {to: sealed})
        key = MailKey(bytes.fromhex(mail_key)).open(sealed, binding=at.roll.digest, sender=found.silo, receiver=to)
        at.cohort_key = GroupKey.from_bytes(key)
        at.commitment = at.cohort_key.commitment(at.roll.digest)
        if at.commitment.hex() != found.key_commitment:
            raise ProtocolError("key", "is not the one that the deal commits to", "")
        return {"dealer": found.silo, "commitment": at.commitment.hex(), "key": key.hex()}

    def announce(self, round, adapter, participants):  # noqa: A002 - the format's word
        at = self.at
        at.ctx = RoundContext(at.plan.digest(), round, bytes.fromhex(adapter), tuple(participants))
        check_round(at.plan, at.roll, at.ctx)
        return {"ctx": at.ctx.digest().hex(), "threshold": at.plan.threshold(len(participants))}

    def joins(self, joins):
        at = self.at
        check_joins(at.plan, at.ctx, all_signed(joins))
        at.check = group_headers(at.plan, at.ctx, at.commitment)
        return {}

    def round_roll(self, joins):
        at = self.at
        at.round_roll = check_round_roll(at.plan, at.ctx, all_signed(joins))
        at.check = keyed_headers(at.plan, at.ctx, at.round_roll)
        return {"digest": at.round_roll.digest.hex(), "receivers": list(receivers_of(at.roll, at.round_roll))}

    def update(self, header, chunks, seeds="", mails=""):
        at = self.at
        found = at.check(signed(header))
        data = [b64decode(chunk) for chunk in chunks]
        if len(data) != at.layout.chunks:
            raise ProtocolError("update", f"has {len(data)} chunks", "")
        for index, chunk in enumerate(data):
            at.layout.check(chunk, index, sender=found.silo)
        if chunks_root([chunk_leaf(chunk) for chunk in data]).hex() != found.residues_root:
            raise ProtocolError("update", "has another root than its header", "")
        if at.plan.suite.keyed:
            digests, count = bytes.fromhex(mails), len(at.ctx.participants)
            require_mails(found.mails, digests, count, sender=found.silo, step="submit")
        elif sha256(b64decode(seeds)) != found.seeds_sha256:
            raise ProtocolError("update", "has other seeds than its header", "")
        at.updates[found.silo] = SimpleNamespace(header=signed(header), chunks=data, seeds=b64decode(seeds))
        return {"silo": found.silo}

    def commit(self, commit, headers):
        at = self.at
        at.commit = check_commit(at.plan, at.ctx, at.check, signed(commit), all_signed(headers))
        return {"members": list(at.commit.members), "tau1": at.commit.digest.hex()}

    def share(self, sender, to, share_key, digests, mail):
        at, sealed, place = self.at, b64decode(mail), self.at.ctx.participants.index(to)
        header = read_header(at.plan.suite, at.updates[sender].header)
        count = len(at.ctx.participants)
        check_mail(header.mails, bytes.fromhex(digests), count, place, sealed, sender=sender, step="fingerprint")
        key = MailKey(bytes.fromhex(share_key))
        data = open_share(key, at.ctx, at.round_roll, sealed, sender=sender, to=to)
        at.shares[sender, to] = check_share(data, at.layout.degree, sender=sender, step="fingerprint")
        return {"sha256": sha256(data)}

    def fingerprints(self, fingerprints):
        at = self.at
        found = check_fingerprints(at.plan, at.ctx, at.commit, all_signed(fingerprints))
        for each in found.fingerprints:
            value = fingerprint_of(at.layout, at.commit.digest, at.updates[each.silo].chunks)
            if encode_fingerprint(value) != each.value:
                raise ProtocolError("fingerprint", f"of {each.silo} is not of its ciphertext", "")
        at.transcript = found
        return {"tau2": found.digest.hex()}

    def sum(self, chunks):
        at, data = self.at, [b64decode(chunk) for chunk in chunks]
        root, value = root_and_fingerprint(at.layout, at.commit.digest, data)
        if root.hex() != at.commit.commit.sum_root:
            raise ProtocolError("sum", "is not the committed one: H(C) differs", "")
        require_sum(at.plan, at.transcript, value)
        at.sum = data
        return {"root": root.hex(), "fingerprint": encode_fingerprint(value)}

    def certificate(self, consents):
        at = self.at
        found = check_certificate(at.plan, at.ctx, at.transcript.digest, all_signed(consents))
        return {"silos": [consent.silo for consent in found]}

    def release(self, release, to, open_key, body, digests, mail):
        at, body, sealed = self.at, b64decode(body), b64decode(mail)
        found = check_release(at.plan, at.ctx, at.transcript.digest, signed(release), body)
        receivers = list(receivers_of(at.roll, at.round_roll))
        check_mail(
            found.mails, bytes.fromhex(digests), len(receivers), receivers.index(to), sealed,
            sender=found.silo, step="release",
        )  # fmt: skip
        key = MailKey(bytes.fromhex(open_key))
        data = open_release(key, at.ctx, at.transcript.digest, body, sealed, sender=found.silo, to=to)
        share = check_share(data, at.layout.degree, sender=found.silo, step="release")
        held = [at.shares.get((member, found.silo)) for member in at.commit.members]
        if all(each is not None for each in held):
            assert np.array_equal(add_shares(held), share)
        at.sums[found.silo] = share
        return {"silo": found.silo, "sha256": sha256(data)}

    def keys(self, of):
        at, names = self.at, self.at.ctx.participants
        shares = {names.index(silo) + 1: at.sums[silo] for silo in of}
        bound = at.layout.params.bound(len(at.commit.members))
        opened = next(candidates(shares, at.plan.threshold(len(names)), bound, os.urandom))
        at.key = opened.total
        return {"sha256": sha256(opened.total.astype("<i4").tobytes()), "wrong": list(opened.wrong)}

    def open(self):
        at = self.at
        if at.plan.suite.keyed:
            blocks = multikey.open_sum(at.key, at.ctx.digest(), at.layout, len(at.commit.members), at.sum)
        else:
            params = GroupParams(at.plan.grid.bits, len(at.ctx.participants))
            seeds = [at.updates[silo].seeds for silo in at.commit.members]
            blocks = open_sum(at.cohort_key, params, at.layout, at.sum, seeds)
        at.opened = np.concatenate(list(blocks))
        return {"sums": at.opened.tolist()}

    def apply(self, adapter):
        at = self.at
        before = np.frombuffer(b64decode(adapter), "<f4")
        if adapter_digest(before) != at.ctx.adapter_digest:
            raise ProtocolError("adapter", "is not the one that the round began with", "")
        ranges, count = coordinate_ranges(at.plan.tensors), len(at.commit.members)
        mean = mean_from_sum(at.opened, ranges, at.plan.grid.bits, count)
        step = server_step(at.plan.server, mean, first_moments(at.plan.server, at.plan.values))
        after = (before + step).astype(np.float32)
        at.adapter = adapter_digest(after)
        return {"adapter": at.adapter.hex()}

    def applied(self, applied):
        at = self.at
        for each in all_signed(applied):
            found = verify(each, Applied, at.plan.identity_keys)
            require_round(at.ctx, found)
            if found.adapter != at.adapter.hex():
                raise ProtocolError("adapter", f"that {found.silo} computed is another one", "")
        return {}
