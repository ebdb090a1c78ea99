"""What a cipher suite promises for the job at hand, in the words of docs/explanation/threat-model.md."""

from privacy.plan import JobPlan
from privacy.suites import Suite
from privacy.thresholds import may_be_missing

VERIFIED = (
    "is found before anything is opened, and the round refused: each silo checks that its own update is in the sum "
    "exactly once, and by fingerprints that the sum is that of the updates its members signed for"
)


def promises(plan: JobPlan) -> dict[str, str]:
    """Who learns what, and what happens when somebody lies or leaves. Never empty: every suite has its row."""
    n = len(plan.cohort.roster)
    match plan.suite:
        case Suite.CKKS_GROUP:
            return {
                "aggregator alone learns": _aggregator_alone(plan),
                "aggregator + 1 silo learn": f"EVERY update of the job (all {n} silos hold the cohort's key)",
                "one silo alone learns": _one_silo(n),
                "a lying aggregator": VERIFIED,
                "drop-outs": _drop_outs(plan.cohort.minimum, plan.least_participants, n),
                "consents to open a sum": f"{plan.threshold(n)} of {n} silos when all take part",
            }
        case Suite.CKKS_MULTIKEY:
            c, t = plan.cohort.tolerated_colluders, plan.threshold(n)
            collected = _drop_outs(plan.cohort.minimum, plan.least_participants, n)
            return {
                "aggregator alone learns": _aggregator_alone(plan),
                "aggregator + 1 silo learn": "the sum less that silo's own update: nobody can open one update",
                "aggregator + c silos learn": (
                    f"as much, less their own updates too, up to c = {c}: two members of every sum are honest"
                ),
                "one silo alone learns": "the sum less its own update, and the adapters",
                "a lying aggregator": VERIFIED,
                "drop-outs": (
                    f"while updates are collected: {collected}; when shares are released, at most n - t of a round's "
                    f"participants may be gone, whenever they left: {may_be_missing(n, t)} of {n} when all take part"
                ),
                "consents to open a sum": (
                    f"t = {t} of {n} silos when all take part, and as many sums of shares of its members' keys"
                ),
            }


def _aggregator_alone(plan: JobPlan) -> str:
    published = plan.dp is not None and plan.dp.metrics is not None
    figures = "each round's accuracy and loss on all held-out parts together, noised and charged" if published else ""
    if plan.open_to == "silos":
        return f"{figures}; nothing else" if figures else "nothing, not even the sum"
    model = "the last model, which a silo gives it when the job is over; no sum and no update"
    return f"{figures}; {model}" if figures else model


def _one_silo(silos: int) -> str:
    if silos == 2:
        return "the sum, so the other's update as well (clipped and noised): two silos cannot hide from each other"
    return "the sum less its own update, the adapters, and five numbers on each other update (its fingerprint)"


def _drop_outs(least: int, to_open: int, silos: int) -> str:
    if least == silos:
        return f"none: a sum takes all {silos} silos, and a round without one of them is tried again"
    return f"any, down to {least} of {silos} silos in a sum; a round starts with at least {to_open}"


def cost(plan: JobPlan) -> str:
    """What all planned rounds cost each silo, by the enforced accountant; empty for a rehearsal."""
    if plan.dp is None:
        return ""
    from privacy.accounting import rdp_epsilon, rdp_vector, round_event, times, unshared

    event = round_event(plan.dp, plan.dp.steps_per_round)
    epsilon, alone = (rdp_epsilon(times(rdp_vector(e), plan.rounds), plan.dp.delta) for e in (event, unshared(event)))
    told = f"epsilon {epsilon:.3f} at delta {plan.dp.delta:g} per {plan.dp.unit} (RDP)"
    if plan.dp.noise == "local":
        return told
    honest = plan.dp.noise_shares
    return f"{told}, while {honest} members of every sum are honest; {alone:.3f} for a silo that is the only one"
