"""What a job waits for, in words: pure."""

from collections.abc import Iterable

from aggregator import job as jobs
from aggregator import round_states as states
from aggregator.live import LiveJob

MOST_NAMES = 8


def waits_for(live: LiveJob, connected: frozenset[str]) -> str:
    """For whom and for what; empty for a job that is over."""
    match live.state:
        case jobs.Joining(plan=plan, joins=joins, refused=refused):
            return f"waits for {_names(plan.identity_keys.keys() - joins.keys() - refused)} to join or refuse"
        case jobs.Dealing() as dealing:
            return f"waits for {dealing.dealer} to deal the cohort's key"
        case jobs.Gathering(plan=plan, members=members):
            away = frozenset(members) - connected
            least = plan.least_participants
            here = len(members) - len(away)
            if not away:
                return f"waits for {_names(live.state.progress.absent)}, which let a round pass, to speak again"
            return f"waits for {_names(away)} to connect: {here} are here, a round needs {least} or more"
        case jobs.Running():
            return _in_round(live.round)
    return ""


def _in_round(state: states.RoundState | None) -> str:
    what = ""
    match state:
        case states.Announced(terms=terms, joined=joined):
            what = f"waits for {_names(frozenset(terms.participants) - joined)} to join round {terms.number}"
        case states.Collecting(terms=terms, submitted=submitted, withdrawn=withdrawn):
            missing = frozenset(terms.participants) - submitted - withdrawn
            what = f"waits for the updates of {_names(missing)} in round {terms.number}"
        case states.Fingerprinting(terms=terms, members=members, answered=answered):
            what = f"waits for the fingerprints of {_names(frozenset(members) - answered)} in round {terms.number}"
        case states.Committed(terms=terms, consented=consented):
            missing, needed = frozenset(terms.participants) - consented, terms.threshold - len(consented)
            what = f"waits for {needed} more consents to round {terms.number}; not yet from {_names(missing)}"
        case states.Sharing(terms=terms, released=released):
            missing, needed = frozenset(terms.participants) - released, terms.threshold - len(released)
            what = f"waits for {needed} more sums of shares of round {terms.number}; not yet from {_names(missing)}"
        case states.Releasing(terms=terms, consented=consented, applied=applied):
            what = f"waits for {_names(consented - applied.keys())} to apply round {terms.number}"
    return what


def _names(silos: Iterable[str]) -> str:
    names = sorted(silos)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "nobody") + more
