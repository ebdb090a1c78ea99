"""Jobs in the form of the Differential Privacy Deployments Registry (OpenDP, proposed to be hosted by NIST).

The fields are those of `schemas/deployments-schema.yaml` in github.com/opendp/deployments-registry-data at commit
057e5d81cf60150dd3307e0cf4504b957802fb3b. A record is a draft: what no ledger knows is left out, and FOR_A_PERSON names
those of it that the registry requires.
"""

from collections.abc import Iterable
from typing import Any, Final

from federation.ledger_report import words
from federation.ledger_report.jobs import Cost, Job
from privacy.ledger.parts import LocalNoise

FOR_A_PERSON: Final = ("data_curators[].data_curator_type", "data_product_region")
"""What the registry requires of each record and no ledger has."""


def deployments(jobs: Iterable[Job], institution: str) -> list[dict[str, Any]]:
    """One record for each job that was charged; the same job, charged to two populations, is two."""
    return [_record(job, cost, institution) for job in jobs for cost in job.costs if cost.charged]


def _record(job: Job, cost: Cost, institution: str) -> dict[str, Any]:
    return {
        "url_slug": f"{job.name}-{institution}-{cost.population}-{job.digest[:12]}",
        "deployment": {
            "basic": _basic(job, cost, institution),
            "dp_variant": _variant(cost),
            "privacy_loss": _privacy_loss(cost),
            "deployment_model": _deployment_model(job, cost, institution),
            "implementation": _implementation(job, cost),
            "administrative": {"status": "Draft", "registry_authors": ["cloister ledger report"], "tier": 2},
        },
    }


def _basic(job: Job, cost: Cost, institution: str) -> dict[str, Any]:
    purpose = "; ".join(job.purposes)
    released = job.published[0].utc if job.published else job.last_utc
    return {
        "name": job.name,
        "data_curators": [{"data_curator_name": institution}],
        "description": f"Adapter of a pinned foundation model, fine-tuned with other institutions ({purpose}). "
        f"This record is about what {institution} contributed of its population {cost.population}.",
        "intended_use": purpose,
        "data_product_type": "Machine learning model",
        "publication_date": released[:10],
    }


def _variant(cost: Cost) -> dict[str, Any]:
    return {
        "variant_name": "Approximate DP",
        "data_domain": f"All sets of each {cost.unit} of the population {cost.population}.",
        "unprotected_quantities": "The job's plan: public sizes, sampling rate, clipping bound, steps.",
    }


def _privacy_loss(cost: Cost) -> dict[str, Any]:
    pld = "" if cost.epsilon_pld is None else f" Privacy loss distributions give {cost.epsilon_pld:.6g} instead."
    return {
        "privacy_unit": cost.unit,
        "privacy_unit_details": f"Add or remove one {cost.unit}, which is in one sample at most once.",
        "privacy_parameters": {"epsilon": cost.epsilon, "delta": cost.delta},
        "privacy_parameters_details": "Of this job alone. Epsilon is that of the composed Renyi divergences at this "
        f"delta, the figure that the budget is enforced with.{pld}",
    }


def _deployment_model(job: Job, cost: Cost, institution: str) -> dict[str, Any]:
    actors = [f"{institution} (trains on its own records)"]
    if job.recipients:
        actors.append(f"{', '.join(job.recipients)} (sums sealed updates, opens none)")
    if job.members:
        actors.append(f"{', '.join(job.members)} (in the published sums)")
    return {
        "model_name": "Federated",
        "model_name_details": f"Central at each institution: {_who_noises(cost, institution)}.",
        "actors": "; ".join(actors),
        "release_type": "One release" if cost.charged == 1 else "Many releases",
        "release_type_details": f"{words.count(cost.charged, 'round')} charged, {len(job.published)} published. The "
        "population's lifetime budget never renews itself.",
        "access_type": "Non-interactive",
    }


def _who_noises(cost: Cost, institution: str) -> str:
    if isinstance(cost.mechanism, LocalNoise):
        return f"{institution} clips and noises each step itself before anything leaves it"
    honest = f"{cost.mechanism.noise_shares} of them are honest"
    return f"the members of a round noise their sum together, and it is enough while {honest}"


def _implementation(job: Job, cost: Cost) -> dict[str, Any]:
    how = cost.mechanism
    kind = "DP-SGD" if isinstance(how, LocalNoise) else "One noised sum of clipped gradients a round"
    return {
        "mechanisms": f"{kind}: Poisson sampling at rate {how.sampling_rate:g}, clipping at {how.clip_l2:g} (L2), "
        f"Gaussian noise of multiplier {how.noise_multiplier:g}, {words.count(how.steps_planned, 'step')} a round. "
        f"Software: {', '.join(job.software)}.",
        "composition": f"Fully adaptive, by a Renyi filter on the population's lifetime budget ({cost.accountant}).",
        "additional_information": f"Job {job.digest}, read from a verified ledger.",
    }
