"""What a silo does with one-time keys: make them for a round, deal shares, hold the others', release, rebuild the sum.

Steps are those of docs/reference/protocol.md. A silo's own key lives in memory alone, from the beginning of training
until its update is sealed: dealt and used up for the pads by then. What others need this silo for is in the vault:
the keys that open their mails, then the sum of its shares, then what it released.
"""

import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import structlog
from cloister import wire

from privacy.canonical import DIGEST_BYTES
from privacy.ckks.multikey import OneTimeKey, Pad, seal
from privacy.ckks.multikey_layout import MultikeyLayout
from privacy.ckks.sampling import SecureBits
from privacy.ckks.shares import Opened, Share, add_shares, candidates, check_share, encode_share
from privacy.envelope import KeyedUpdateHeader
from privacy.errors import InternalError, ProtocolError, VerificationError
from privacy.keyed import (
    Release,
    RoundRoll,
    check_mail,
    check_release,
    check_round_roll,
    mail_digests,
    mails_digest,
    receivers_of,
)
from privacy.keyed_mail import open_release, open_share, seal_release, seal_shares
from privacy.mail import MailKey
from privacy.plan import RoundContext
from privacy.statement import Signed
from privacy.transcript import CheckedCommit
from silo_agent.home import Home
from silo_agent.membership import Membership
from silo_agent.round_events import NothingToRelease, ReleaseSealed
from silo_agent.sums import judged
from silo_agent.vault import Secret

LOG = structlog.get_logger("silo.round")
ROLLS_KEPT = 4
CheckedRelease = tuple[Release, wire.ShownRelease]


class Masking:
    """A one-time key, made and used up while training runs: its share mails, then the pads, block after block.

    Raises, where the first of it is asked for, what went wrong in the thread.
    """

    def __init__(self, silo: str, ctx: RoundContext, roll: RoundRoll, threshold: int, layout: MultikeyLayout) -> None:
        self.spent_ns = 0
        self._made: queue.SimpleQueue[list[bytes] | Pad | BaseException | None] = queue.SimpleQueue()
        self._unwanted = threading.Event()
        parts = (silo, ctx, roll, threshold, layout)
        self._thread = threading.Thread(target=self._run, args=parts, name="masking", daemon=True)
        self._thread.start()

    def mails(self) -> list[bytes]:
        """The share mails, in the participants' order. Once, before `pads`."""
        found = self._next()
        if not isinstance(found, list):
            raise InternalError("share mails", "were taken before", "Report this; nothing is sent.")
        return found

    def pads(self) -> Iterator[Pad]:
        """The pads as they are made."""
        while isinstance(found := self._next(), Pad):
            yield found

    def drop(self) -> None:
        """Nobody wants them any more."""
        self._unwanted.set()

    def _next(self) -> list[bytes] | Pad | None:
        found = self._made.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def _run(self, silo: str, ctx: RoundContext, roll: RoundRoll, threshold: int, layout: MultikeyLayout) -> None:
        try:
            bits = SecureBits()
            key = OneTimeKey.generate(layout.params, bits)
            shares = key.deal(threshold, list(roll.points), bits)
            self._made.put(seal_shares(ctx, roll, silo, [encode_share(share) for share in shares]))
            for pad in key.pads(ctx.digest(), layout, bits):
                if self._unwanted.is_set():
                    break
                self._made.put(pad)
            self.spent_ns = time.thread_time_ns()
            self._made.put(None)
        except BaseException as error:  # for whoever waits for it
            self._made.put(error)


class KeyedRounds:
    """One job's rounds with one-time keys at this silo."""

    def __init__(self, home: Home, membership: Membership, layout: MultikeyLayout) -> None:
        self._home = home
        self._member = membership
        self._layout = layout
        self._rolls: dict[bytes, RoundRoll] = {}
        self._masking: dict[int, Masking] = {}
        self._held: dict[int, dict[str, Share | None]] = {}

    # -- step 0 --------------------------------------------------------------------------------------------------------

    def public_keys(self, number: int) -> dict[str, str]:
        """The fields of a KeyedRoundJoin: keys that are made once a round and lie in the vault before this returns."""
        return {
            "share_key": self._made(number, Secret.SHARE_KEY).public_bytes.hex(),
            "open_key": self._made(number, Secret.OPEN_KEY).public_bytes.hex(),
        }

    def _made(self, number: int, secret: Secret) -> MailKey:
        vault, job = self._home.vault, self._member.job
        if not vault.has(job, secret, number):
            vault.put(job, secret, MailKey.generate().private_bytes, round_number=number)
        return MailKey(vault.get(job, secret, number))

    def roll(self, ctx: RoundContext, joins: Sequence[Signed]) -> RoundRoll:
        """See `check_round_roll`; the last few are remembered."""
        seen = hashlib.sha256(ctx.digest() + b"".join(join.body + join.signature for join in joins)).digest()
        if seen not in self._rolls:
            self._rolls[seen] = check_round_roll(self._member.plan, ctx, joins)
            for old in list(self._rolls)[:-ROLLS_KEPT]:
                del self._rolls[old]
        return self._rolls[seen]

    # -- step 1 --------------------------------------------------------------------------------------------------------

    def begin(self, ctx: RoundContext, roll: RoundRoll) -> None:
        """Make this round's key, its shares and its pads, beside whatever else runs."""
        threshold = self._member.plan.threshold(len(ctx.participants))
        self._masking[ctx.round_number] = Masking(self._member.silo, ctx, roll, threshold, self._layout)

    def seal(
        self, number: int, grid_blocks: Iterable[npt.NDArray[np.uint16]], note: Callable[[Masking], None]
    ) -> tuple[Iterator[tuple[bytes, bytes]], str]:
        """What goes into the outbox, and `mails_digest` of the share mails. Uses the key up; `note` gets what ran."""
        masking = self._masking.pop(number)
        mails = masking.mails()

        def parts() -> Iterator[tuple[bytes, bytes]]:
            yield b"", b"".join(mails)
            for chunk in seal(masking.pads(), self._layout, grid_blocks):
                yield chunk, b""
            note(masking)

        return parts(), mails_digest(mail_digests(mails))

    def drop(self, number: int) -> None:
        """The round's update is not wanted any more: nor is its key."""
        masking = self._masking.pop(number, None)
        if masking is not None:
            masking.drop()

    # -- steps 3 to 5 --------------------------------------------------------------------------------------------------

    def gather(
        self, ctx: RoundContext, roll: RoundRoll, commit: CheckedCommit, fetch: Callable[[], Iterable[wire.ShareMail]]
    ) -> tuple[str, ...]:
        """Have this silo's share of every member's key; returns the members whose mail holds none.

        Raises Rejected for a mail that is not the one its sender signed, ProtocolError if one did not come.
        """
        held = self._held.setdefault(ctx.round_number, {})
        headers = {header.silo: header for header in commit.headers if isinstance(header, KeyedUpdateHeader)}
        if headers.keys() - held.keys():
            key = MailKey(self._home.vault.get(self._member.job, Secret.SHARE_KEY, ctx.round_number))
            for mail in fetch():
                if mail.sender in headers and mail.sender not in held:
                    held[mail.sender] = self._share(key, ctx, roll, headers[mail.sender], mail)
        missing = sorted(headers.keys() - held.keys())
        if missing:
            why = f"of {', '.join(missing)} did not come"
            raise ProtocolError(f"share mails of round {ctx.round_number}", why, "They are asked for again.")
        return tuple(name for name in sorted(headers) if held[name] is None)

    def _share(
        self, key: MailKey, ctx: RoundContext, roll: RoundRoll, header: KeyedUpdateHeader, mail: wire.ShareMail
    ) -> Share | None:
        silo, count = self._member.silo, len(ctx.participants)
        place = ctx.participants.index(silo)
        with judged():
            check_mail(header.mails, mail.digests, count, place, mail.sealed, sender=mail.sender, step="fingerprint")
        try:
            encoded = open_share(key, ctx, roll, mail.sealed, sender=mail.sender, to=silo)
            return check_share(encoded, self._layout.degree, sender=mail.sender, step="fingerprint")
        except ProtocolError as error:
            LOG.warning("a share is of no use", round=ctx.round_number, sender=mail.sender, exc_info=error)
            return None

    def hold(self, number: int, transcript: bytes, members: Iterable[str]) -> None:
        """Store, durably, the sum of this silo's shares over the members, all of them gathered, for this transcript."""
        held = self._held[number]
        shares = [share for name in members if (share := held[name]) is not None]
        total = transcript + encode_share(add_shares(shares))
        self._home.vault.put(self._member.job, Secret.SHARES, total, round_number=number, replace=True)

    # -- step 6 --------------------------------------------------------------------------------------------------------

    def seal_release(
        self, ctx: RoundContext, transcript: bytes, joins: Sequence[Signed]
    ) -> ReleaseSealed | NothingToRelease:
        """Seal the stored sum of shares of this transcript to the silos of the job, into the vault."""
        vault, job, number = self._home.vault, self._member.job, ctx.round_number
        stored = vault.get(job, Secret.SHARES, number) if vault.has(job, Secret.SHARES, number) else b""
        if self._member.silo not in ctx.participants or stored[:DIGEST_BYTES] != transcript:
            return NothingToRelease()
        receivers = receivers_of(self._member.roll, self.roll(ctx, joins))
        sealed = seal_release(ctx, transcript, self._member.silo, stored[DIGEST_BYTES:], receivers)
        document = json.dumps({"body": sealed.body.hex(), "mails": b"".join(sealed.mails).hex()}).encode()
        vault.put(job, Secret.RELEASE, document, round_number=number, replace=True)
        digest = mails_digest(mail_digests(sealed.mails))
        return ReleaseSealed({"body_sha256": hashlib.sha256(sealed.body).hexdigest(), "mails": digest})

    def released(self, number: int) -> tuple[bytes, bytes]:
        """Body and mails of this silo's release, as they are sent."""
        stored = json.loads(self._home.vault.get(self._member.job, Secret.RELEASE, number))
        return bytes.fromhex(stored["body"]), bytes.fromhex(stored["mails"])

    def forget_shares(self, number: int) -> None:
        """Step 9: what was released is sealed to its receivers; this silo opens no share of this round again."""
        self._held.pop(number, None)
        for secret in (Secret.SHARE_KEY, Secret.SHARES):
            self._home.vault.erase_one(self._member.job, secret, number)

    # -- steps 7 and 9 -------------------------------------------------------------------------------------------------

    def checked(self, ctx: RoundContext, transcript: bytes, shown: Iterable[wire.ShownRelease]) -> list[CheckedRelease]:
        """Those that participants signed for this transcript, one each; others say nothing about the round."""
        found: dict[str, CheckedRelease] = {}
        for each in shown:
            try:
                release = check_release(self._member.plan, ctx, transcript, each.release, each.body)
            except ProtocolError as error:
                LOG.warning("a release is of no use", round=ctx.round_number, exc_info=error)
            else:
                found[release.silo] = release, each
        return list(found.values())

    def rebuild(
        self,
        ctx: RoundContext,
        transcript: bytes,
        joins: Sequence[Signed],
        members: int,
        releases: Iterable[CheckedRelease],
    ) -> Iterator[Opened]:
        """S, the sum of the members' keys, from what was released (`candidates`). What does not open is left out.

        Raises VerificationError if what is left does not give it: more releases may.
        """
        roll = self.roll(ctx, joins)
        sums = self._released_sums(ctx, transcript, roll, releases)
        threshold = self._member.plan.threshold(len(ctx.participants))
        if len(sums) < threshold:
            why = f"are {len(sums)} of use, of {threshold} that it takes"
            raise VerificationError("released sums of shares", why, "It is tried again when more were released.")
        return candidates(sums, threshold, self._layout.params.bound(members), os.urandom)

    def _released_sums(
        self, ctx: RoundContext, transcript: bytes, roll: RoundRoll, releases: Iterable[CheckedRelease]
    ) -> Mapping[int, Share]:
        vault, job, silo = self._home.vault, self._member.job, self._member.silo
        receivers = list(receivers_of(self._member.roll, roll))
        secret, number = (Secret.OPEN_KEY, ctx.round_number) if silo in ctx.participants else (Secret.MAIL_KEY, 0)
        key, place = MailKey(vault.get(job, secret, number)), receivers.index(silo)
        sums: dict[int, Share] = {}
        for release, each in releases:
            try:
                by = release.silo
                check_mail(release.mails, each.digests, len(receivers), place, each.mail, sender=by, step="release")
                encoded = open_release(key, ctx, transcript, each.body, each.mail, sender=by, to=silo)
                sums[roll.point(by)] = check_share(encoded, self._layout.degree, sender=by, step="release")
            except ProtocolError as error:
                LOG.warning("a release is of no use", round=ctx.round_number, exc_info=error)
        return sums

    def forget(self, number: int) -> None:
        """Step 9: the round is over here."""
        self.drop(number)
        self._held.pop(number, None)
        self._home.vault.erase_round(self._member.job, number)
