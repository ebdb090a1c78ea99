"""Jobs' model cards from a ledger and its evidence: the exporter writes them, and the verifier writes them again."""

from collections import Counter

from privacy.accounting import ZERO, Vector, add, rdp_epsilon
from privacy.errors import VerificationError
from privacy.ledger.checkpoint import parse_note
from privacy.ledger.entry import AnyEntry, CommitEntry, RoundEntry
from privacy.ledger.evidence import Evidence
from privacy.plan import JobPlan
from privacy.record import RoundRecord
from privacy.statement import read
from privacy.tasks import ModelTask, TrainedTask
from privacy.transcript import RoundCommit
from runtime.model_card import Facts, Spent, model_card

_NEXT = "Ask the institution for a fresh export."


class CardBook:
    """Remembers of a log, which is read once and in order, what the cards of its jobs say."""

    def __init__(self) -> None:
        self._charged: dict[str, tuple[Vector, float]] = {}  # with the population's delta
        self._adapters: dict[str, str] = {}

    def read(self, entry: AnyEntry) -> None:
        """Take an entry."""
        if isinstance(entry, CommitEntry):
            before = self._charged.get(entry.job, (ZERO, 0.0))[0]
            self._charged[entry.job] = (add(before, entry.charge.rdp), entry.charge.delta)
        elif isinstance(entry, RoundEntry) and entry.adapter_after_sha256 is not None:
            self._adapters[entry.job] = entry.adapter_after_sha256

    def cards(self, evidence: Evidence, institution: str, newest_note: str) -> dict[str, bytes]:
        """The card of each job that trains a model and published a round, by the job.

        None where the export is of a part of the time: a card of some rounds would say that there were no others.
        """
        if evidence.scope.since_utc is not None:
            return {}
        rounds: dict[str, list[RoundRecord]] = {}
        for key in evidence.transcripts:
            rounds.setdefault(key.job, []).append(RoundRecord.decode(evidence.transcripts[key]))
        plans = {job: JobPlan.decode(evidence.plans[job]) for job in rounds}
        return {
            job: self._card(job, plan, plan.task, rounds[job], institution, newest_note).encode()
            for job, plan in sorted(plans.items())
            if isinstance(plan.task, ModelTask) and job in self._adapters
        }

    def _card(
        self, job: str, plan: JobPlan, task: TrainedTask, records: list[RoundRecord], institution: str, newest_note: str
    ) -> str:
        members = (member.silo for each in records for member in read(each.commit.signed, RoundCommit).members)
        charged = {}
        if job in self._charged:
            vector, delta = self._charged[job]
            charged[institution] = Spent(rdp_epsilon(vector, delta), delta)
        checkpoint = " ".join(parse_note(newest_note).text.splitlines())
        facts = Facts(len(records), Counter(members), charged, checkpoint)
        return model_card(plan, task, self._adapters[job], facts)


def check_cards(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """A bundle's cards say what the rest of it says. Raises VerificationError naming the first that does not."""
    for job in sorted(found.keys() | expected.keys()):
        if found.get(job) != expected.get(job):
            why = "is missing" if job not in found else "does not say what the plan, the rounds and the ledger say"
            raise VerificationError(f"model card of job {job[:12]}", why, _NEXT)
