"""Codes, units and limits in words that need no glossary; the codes stand in docs/reference/ledger-format.md."""

import math
from typing import Final

from privacy.budget import Unit
from privacy.ledger.evidence import Scope
from privacy.ledger.parts import RefusalReason

REFUSALS: Final[dict[RefusalReason, str]] = {
    "over-cap": "It did not fit into what is left of the population's lifetime budget.",
    "over-sub-cap": "It did not fit into the limit that the institution set for one job, or for its purpose.",
    "grant-used-up": "The job has had all the rounds that it was approved for.",
    "not-approved": "The job is not approved, no more, or for rounds of another cost.",
    "number-used": "A round of this number was charged, given back or set aside before; a number is used once.",
    "unit": "The job protects another unit than the budget is counted in.",
    "delta": "The job states a larger delta than the budget allows.",
    "declined": "A steward said no.",
    "not-fit": "Dataset, model or mechanism do not fit the job.",
    "wrong-digest": "A model or a file is not the one that the job pins.",
    "not-ready": "Something that the job needs is missing at this institution.",
    "wrong-message": "A message of the aggregator broke the protocol.",
    "bad-evidence": "The evidence of a round did not hold.",
}
"""What each reason of a refusal means."""

DECIDERS: Final = {
    "budget": "the budget's rule",
    "steward": "a steward",
    "preflight": "the checks before training",
    "protocol": "the checks of the round",
}
"""Who or what decided a refusal."""

ANSWERS: Final = {
    "glance": "Answers to NIST SP 800-226 (epsilon, delta and the unit of privacy, stated together) and to EU AI Act "
    "Art. 12(1) (a record over the lifetime of the system).",
    "jobs": "Answers to GDPR Art. 30(1)(b) and (d) (purposes, recipients) and to EU AI Act Art. 12(2) (what ran can be "
    "traced). Legal basis and impact assessment are named as the institution states them; nobody judged them here.",
    "time": "Answers to NIST SP 800-226 (composition: what all releases together come to).",
    "refusals": "Answers to HIPAA 45 CFR 164.312(b) (activity is recorded, also what was not done) and to EU AI Act "
    "Art. 12(2).",
    "reviews": "Answers to HIPAA 45 CFR 164.312(b) (to record, and to examine).",
    "checks": "Answers to HIPAA 45 CFR 164.312(b) (mechanisms that record) and to GDPR Art. 30(1)(g) (technical "
    "measures).",
    "limits": "Answers to NIST SP 800-226 (what a guarantee rests on).",
}
"""Which requirement each section of the page speaks to."""

LIMITS: Final = (
    "A sound ledger proves what the institution signed, that the figures follow from it, and that each "
    "published round's plan, members and sum are signed with all members' keys, as this ledger pins them. It does not "
    "prove that the institution trained as it says, nor that a key is its member's: the member's own bundle does.",
    "One log alone cannot show that its owner has shown somebody else another one, or one cut off earlier, nor that a "
    "whole job was left out. Compare it with other members' and the aggregator's: cloister ledger compare.",
    "Whose ledger it is rests on the key or the CA that was given to make this page, not on the bundle. Whoever runs "
    "the CA could issue a second identity; a pinned key closes that.",
    "Times are those of the institution's own clock.",
    "Entries newer than the last signed checkpoint are not in a bundle.",
    "How many records or patients there are is in no ledger, by design, and neither is anything computed from data.",
    "Epsilon is about what these jobs released, and about nothing else that is done with the same data. A person who "
    "is in two populations, or at two institutions, is covered by each budget on its own; at worst the figures add up.",
    "Not in a ledger, and to be had elsewhere for a record of processing: contacts, categories of data, time limits "
    "for erasure, transfers to third countries.",
)
"""What the page cannot show, for every ledger."""

SHARED_NOISE: Final = (
    "A job on this page shares its noise: its figures hold while as many members as it names are honest. This "
    "institution cannot keep that promise alone."
)

FINDINGS: Final = {"in-order": "in order", "observation": "observation", "deficiency": "deficiency"}
"""A review's findings, as a person says them; any other is shown as it stands."""


def each(unit: Unit) -> str:
    """Whose presence a budget protects."""
    return f"each {unit}"


def percent(part: float, whole: float) -> str:
    """`part` of `whole`, with one digit after the point below ten."""
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "under 0.1 %"
    return f"{share:.1f} %" if 0 < share < 9.95 else f"{share:.0f} %"


def meaning(epsilon: float, delta: float, unit: Unit) -> str:
    """Epsilon and delta in one sentence: by what factor, e to the epsilon, one unit may make anything likelier."""
    known = "whatever anybody finds out from all that was released"
    beside = f"with the data of one {unit} as without it"
    if epsilon > math.log(1000):
        return f"{known} may be over a thousand times as likely {beside}. By itself such a figure promises little."
    factor = math.exp(epsilon)
    shown = f"{factor:.2f}" if factor < 9.995 else f"{factor:.0f}"
    return f"{known} is at most {shown} times as likely {beside}, apart from a chance of {delta:g}."


def scope_of(scope: Scope) -> str | None:
    """What an export was asked for; None for all of it."""
    parts = []
    if scope.job is not None:
        parts.append(f"of job {scope.job[:12]} alone")
    if scope.since_utc is not None:
        parts.append(f"of entries from {moment(scope.since_utc)} on")
    return " and ".join(parts) or None


def moment(utc: str) -> str:
    """An entry's time for a person: `2026-03-01 09:00`."""
    return utc[:16].replace("T", " ")


def count(number: int, one: str, many: str = "") -> str:
    """`1 round`, `2 rounds`."""
    return f"{number} {one if number == 1 else many or one + 's'}"
