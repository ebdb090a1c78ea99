"""How many of a round's participants it takes (round-protocol.md, "Suite ckks-multikey").

n participants, of whom up to c may collude with the aggregator; a key is shared among all n so that t shares give it.
A certificate is t consents of distinct participants to one transcript; an honest participant consents once a round.

**Two certificates share an honest signer, whoever the c colluders are, exactly when 2t - n > c.** Two sets of t
signers out of n have at least 2t - n in common (t + t less the n there are), and there are two with no more. More
than c in common: one of them is honest, so both certificates are for one transcript. At most c in common: those may
all be colluders who sign both, while the honest rest of the two sets were shown different transcripts. The least such
t is floor((n + c) / 2) + 1, since 2t - n > c means t > (n + c) / 2. It also exceeds c: colluders cannot open a key.

U has at least c + 2 members, so that two of them are honest and neither update is the sum less the colluders' own.
"""

from privacy.errors import ConfigError

MOST_PARTICIPANTS = 100  # for which sizes and bounds of the parameter sets were worked out


def threshold(participants: int, colluders: int) -> int:
    """t, both the shares that give a key and the consents of a certificate: floor((n + c) / 2) + 1."""
    return (participants + colluders) // 2 + 1


def least_members(minimum_cohort: int, colluders: int) -> int:
    """The fewest members of the sum, |U|: the plan's minimum, and two honest ones beside c colluders."""
    return max(minimum_cohort, colluders + 2)


def may_be_missing(participants: int, shares_needed: int) -> int:
    """How many participants may be gone when keys' shares are released, whenever they left: n - t."""
    return participants - shares_needed


def usual_colluders(participants: int) -> int:
    """What a job file that names none gets: a third of the others, floor((n - 1) / 3), and at least one."""
    return max(1, (participants - 1) // 3)


def check_multikey_cohort(participants: int, colluders: int, minimum_cohort: int) -> None:
    """Raises ConfigError, with what would work, unless `ckks-multikey` can keep its promises in such a round.

    From 4 to 100 participants with 1 <= c <= n - 2; 3 with c = 1, where t = 3 and nobody may be missing. From
    c <= n - 2 follow t <= n and that U may have enough members; from c >= 1 that U has three or more.
    """
    what = f"ckks-multikey with {participants} silos, {colluders} of them colluding"
    if participants > MOST_PARTICIPANTS:
        raise ConfigError(what, f"takes at most {MOST_PARTICIPANTS} silos", "List fewer silos in the job's roster.")
    if participants < 3:
        next_step = "List 4 silos or more, or 3 with tolerated_colluders = 1, or choose the suite ckks-group."
        raise ConfigError(what, "hides no update in a sum of so few", next_step)
    if participants == 3 and colluders != 1:
        next_step = "Set tolerated_colluders = 1, which takes all three silos at every step, or list 4 silos or more."
        raise ConfigError(what, "is defined for 3 silos only with one colluder, where t = 3", next_step)
    if colluders < 1:
        next_step = f"Set tolerated_colluders to 1 or more ({usual_colluders(participants)} is usual here)."
        raise ConfigError(what, "is for jobs in which somebody may collude with the aggregator", next_step)
    if colluders > participants - 2:
        next_step = f"Set tolerated_colluders to at most {participants - 2}, or list more silos."
        raise ConfigError(what, "leaves fewer than two honest silos to hide in their sum", next_step)
    if minimum_cohort > participants:
        why = f"never reaches the minimum cohort of {minimum_cohort}"
        raise ConfigError(what, why, f"Set cohort.minimum to {least_members(0, colluders)}-{participants}.")
