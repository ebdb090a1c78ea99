"""What silos may read: their jobs, the rounds so far, committed sums."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from cloister.wire import (
    MAX_CHUNK_BYTES,
    Job,
    MemberSeeds,
    Notice,
    Round,
    RoundPhase,
    ShareMail,
    ShownRelease,
    SumPart,
)

from aggregator.accumulate import read_chunks, update_paths
from aggregator.attachments import release_body_bytes, share_mail_bytes, slices
from aggregator.blobs import Blobs
from aggregator.job import Dealing
from aggregator.keyed import receivers_in
from aggregator.live import LiveJob
from aggregator.rebuild import context_of, job_phase, round_phase
from aggregator.round_states import Fingerprinting
from aggregator.runner import Runner
from aggregator.store import JobRow, Kind, RoundRow, Transaction
from privacy.ckks.layouts import layout_of
from privacy.errors import InternalError, ProtocolError, Refused
from privacy.keyed import mail_digests
from privacy.statement import Signed, read
from privacy.thresholds import MOST_PARTICIPANTS
from privacy.transcript import RoundCommit

Standing = tuple[Notice, tuple[str, ...], int]  # what is told of a job, whose deal it waits for, at which commit it is


class ReadingDesk:
    """Answers silos. Raises Refused for what is not theirs to see, ProtocolError for what does not exist."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def notices(self, silo: str, sent: dict[bytes, Standing]) -> tuple[Notice, ...]:
        """Notices of the silo's jobs that stand otherwise than in `sent`, which is brought up to date.

        A second commit, or a roll with another dealer, is told by the same notice again: silos have to act on it.
        """
        fresh = []
        for live in self._runner.all_jobs():
            if silo in live.plan.identity_keys and not live.forgotten:
                standing = _standing(live)
                if sent.get(live.job) != standing:
                    sent[live.job] = standing
                    fresh.append(standing[0])
        return tuple(fresh)

    def job(self, silo: str, job: bytes) -> Job:
        """The job as this silo may see it."""
        live = roster_job(self._runner, silo, job)
        with self._runner.store.reading() as tx:
            row = _row(tx.job(job), live)
            joins = tx.statements(job, 0, Kind.JOB_JOIN)
            members = row.roll if row.roll is not None else tuple(joins)
            return Job(
                plan=row.plan,
                phase=row.phase,
                joins=tuple(joins[name] for name in members),
                deal=only(tx.statements(job, 0, Kind.KEY_DEAL)),
                mail=tx.mail(job, silo),
                opened_rounds=tx.certified_rounds(job),
                current_round=max((each.round for each in tx.rounds(job)), default=0),
                model_wanted=model_wanted(tx, self._runner.blobs, live),
            )

    def artifact(self, silo: str, job: bytes) -> Iterator[bytes]:
        """The starting adapter in parts; nothing for a rehearsal."""
        roster_job(self._runner, silo, job)
        path = self._runner.blobs.artifact(job)
        if path.exists():
            yield from read_chunks(path, MAX_CHUNK_BYTES)

    def round(self, silo: str, job: bytes, number: int) -> Round:
        """What the round has so far. A silo that asks about a round it was left out of is there again."""
        live = roster_job(self._runner, silo, job)
        with self._runner.store.reading() as tx:
            row, commit = announced_row(tx, live, number), only(tx.statements(job, number, Kind.COMMIT))
            headers = tx.statements(job, number, Kind.HEADER)
            found = Round(
                phase=row.phase,
                participants=row.participants,
                adapter_digest=row.adapter,
                joins=_all(tx, job, number, Kind.ROUND_JOIN),
                commit=commit,
                headers=tuple(headers[name] for name in (members_of(commit) if commit else headers)),
                fingerprints=_all(tx, job, number, Kind.FINGERPRINT),
                consents=_all(tx, job, number, Kind.CONSENT),
                releases=_all(tx, job, number, Kind.RELEASE),
                applied=_all(tx, job, number, Kind.APPLIED),
            )
        if number == live.number and silo not in row.participants:
            self._runner.heard_of(silo, job)
        return found

    def sum(self, silo: str, job: bytes, number: int) -> Iterator[SumPart]:
        """The committed sum: the members' seeds where there are such, then the residue chunks. For the roll's members.

        Not before all fingerprints are there: a commit may be replaced until then, and who holds the job's key and got
        the sums of both would have, as their difference, the update of a silo that was left out.
        """
        live = roster_job(self._runner, silo, job)
        with self._runner.store.reading() as tx:
            commit = only(tx.statements(job, number, Kind.COMMIT))
            row, headers = announced_row(tx, live, number), tx.statements(job, number, Kind.HEADER)
            roll = _row(tx.job(job), live).roll or ()
        if silo not in roll:
            raise Refused(f"sum of round {number}", f"{silo} is not in the job's roll", "Only its members open sums.")
        final = row.phase >= RoundPhase.COMMITTED and (row.certified or row.phase is not RoundPhase.ABORTED)
        if commit is None or not final:
            why = f"there is none (the round is {row.phase.name})"
            raise ProtocolError(f"sum of round {number}", why, "Ask for the round (GetRound).", sender=silo)
        statement = read(commit, RoundCommit)
        path = self._runner.blobs.sum(job, number, statement.attempt)
        if live.forgotten:
            raise ProtocolError(
                f"sum of round {number}", "was removed when the job was over for long", "Take the adapter from a peer."
            )
        members = () if live.plan.suite.keyed else members_of(commit)
        seeds = {name: update_paths(path.parent, name, headers[name], live.plan)[1] for name in members}
        return _sum_parts(path, seeds, layout_of(live.plan).chunk_bytes(0))

    def mails(self, silo: str, job: bytes, number: int) -> Iterator[ShareMail]:
        """The share mails to this silo, of the members of the sum. For participants, while updates are staged."""
        live = roster_job(self._runner, silo, job)
        with self._runner.store.reading() as tx:
            row, commit = announced_row(tx, live, number), only(tx.statements(job, number, Kind.COMMIT))
            headers = tx.statements(job, number, Kind.HEADER)
        if silo not in row.participants:
            raise Refused(f"share mails of round {number}", f"{silo} is no participant", "None is for it.")
        if commit is None or row.phase >= RoundPhase.PUBLISHED or not live.plan.suite.keyed:
            why = f"there are none (the round is {row.phase.name})"
            raise ProtocolError(f"share mails of round {number}", why, "Ask for the round (GetRound).", sender=silo)
        folder, size = self._runner.blobs.sum(job, number, 1).parent, share_mail_bytes(layout_of(live.plan))
        paths = {name: update_paths(folder, name, headers[name], live.plan)[1] for name in members_of(commit)}
        return _share_mails(paths, row.participants.index(silo), size)

    def releases(self, silo: str, job: bytes, number: int) -> Iterator[ShownRelease]:
        """What was released, once it is enough to open the sum, with this silo's mails. For the roll's members."""
        live = roster_job(self._runner, silo, job)
        with self._runner.store.reading() as tx:
            row = announced_row(tx, live, number)
            if not row.certified or not live.plan.suite.keyed or live.forgotten:
                why = f"there are none (the round is {row.phase.name})"
                raise ProtocolError(f"releases of round {number}", why, "Ask for the round (GetRound).", sender=silo)
            receivers = list(receivers_in(tx, live, context_of(job, row)))
            released = tx.statements(job, number, Kind.RELEASE)
        if silo not in receivers:
            raise Refused(f"releases of round {number}", f"{silo} is not in the job's roll", "None is sealed to it.")
        paths = {name: self._runner.blobs.release(job, number, signed) for name, signed in released.items()}
        place, count, split = receivers.index(silo), len(receivers), release_body_bytes(layout_of(live.plan))
        return (_shown(released[name], path.read_bytes(), split, place, count) for name, path in paths.items())


def notice_of(live: LiveJob) -> Notice:
    """Where a job stands, for its silos."""
    return Notice(job=live.job, job_phase=job_phase(live.state), round=live.number, round_phase=round_phase(live.round))


def _standing(live: LiveJob) -> Standing:
    roll = live.state.roll.members if isinstance(live.state, Dealing) else ()
    return notice_of(live), roll, live.round.attempt if isinstance(live.round, Fingerprinting) else 0


def roster_job(runner: Runner, silo: str, job: bytes) -> LiveJob:
    """A job, if this silo is in its roster. Raises Refused otherwise."""
    live = runner.live(job)
    if silo not in live.plan.identity_keys:
        raise Refused(
            f"job {live.plan.name}", f"{silo} is not in its roster", "Ask the coordinator for a job with you in it."
        )
    return live


def last_published(tx: Transaction, live: LiveJob) -> RoundRow | None:
    """The last round that came to an adapter."""
    return next((row for row in reversed(tx.rounds(live.job)) if row.result is not None), None)


def model_wanted(tx: Transaction, blobs: Blobs, live: LiveJob) -> int:
    """The round whose adapter the plan promises to the aggregator, once the job is over and while it is not here."""
    last = last_published(tx, live)
    wanted = live.plan.open_to == "silos+aggregator" and job_phase(live.state).closed and not live.forgotten
    return last.round if wanted and last is not None and not blobs.model(live.job).exists() else 0


def announced_row(tx: Transaction, live: LiveJob, number: int) -> RoundRow:
    """A round's row. Raises ProtocolError if it was never announced."""
    row = tx.round(live.job, number)
    if row is None:
        raise ProtocolError(
            f"round {number} of job {live.plan.name}", "was never announced", "Ask for the job (GetJob) first."
        )
    return row


def members_of(commit: Signed) -> tuple[str, ...]:
    """The members of a committed sum, in the commit's order."""
    return tuple(member.silo for member in read(commit, RoundCommit).members)


def only(statements: Mapping[str, Signed]) -> Signed | None:
    """The one statement of its kind, if it was made."""
    return next(iter(statements.values()), None)


def _row(row: JobRow | None, live: LiveJob) -> JobRow:
    if row is None:
        raise InternalError(f"job {live.plan.name}", "is in memory and not in the database", "Report this.")
    return row


def _all(tx: Transaction, job: bytes, number: int, kind: Kind) -> tuple[Signed, ...]:
    return tuple(tx.statements(job, number, kind).values())


def _share_mails(paths: Mapping[str, Path], place: int, size: int) -> Iterator[ShareMail]:
    for name, path in paths.items():
        with path.open("rb") as file:
            file.seek(place * size)
            yield ShareMail(sender=name, digests=_digests_in(path, size), sealed=file.read(size))


@lru_cache(maxsize=2 * MOST_PARTICIPANTS)
def _digests_in(path: Path, size: int) -> bytes:
    """Those of the mails in a file. It never changes: the digest of the header that names them is in its name."""
    return mail_digests(read_chunks(path, size))


def _shown(release: Signed, data: bytes, split: int, place: int, receivers: int) -> ShownRelease:
    mails = slices(data[split:], receivers)
    return ShownRelease(release=release, body=data[:split], digests=mail_digests(mails), mail=mails[place])


def _sum_parts(path: Path, seeds: Mapping[str, Path], chunk_bytes: int) -> Iterator[SumPart]:
    for name, seed_path in seeds.items():
        for part in read_chunks(seed_path, MAX_CHUNK_BYTES):
            yield SumPart(seeds=MemberSeeds(silo=name, part=part))
    for chunk in read_chunks(path, chunk_bytes):
        yield SumPart(residues=chunk)
        del chunk
