"""What ledger entries are made of: figures as they are written, a mechanism, what an event costs, what is left."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from privacy.accounting import ACCOUNTANT, Event, Vector, check_vector, pld_epsilon, rdp_epsilon, rdp_vector
from privacy.budget import BudgetState, RefusalCode
from privacy.errors import InternalError
from privacy.fields import PositiveReal, Strict, Text
from privacy.mechanism import DpSgd
from privacy.thresholds import MOST_PARTICIPANTS

_NO_VECTOR = "must be one multiple of 2^-32 per order, from that up to 2^20"


def _rounded_vector(vector: Vector) -> Vector:
    try:
        if all(vector):
            return check_vector(vector)
    except InternalError as error:
        raise ValueError(_NO_VECTOR) from error
    raise ValueError(_NO_VECTOR)  # no event costs nothing: figures are rounded up


Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
RoundNumber = Annotated[int, Field(ge=0, le=2**31)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Delta = Annotated[float, Field(gt=0, lt=0.1, allow_inf_nan=False)]
Rdp = Annotated[Vector, Field(strict=False), AfterValidator(_rounded_vector)]
Orders = Annotated[Vector, Field(strict=False)]
Adjacency = Literal["add-or-remove-one"]
ContributionBound = Literal[1]
"""How often one unit may be in one sample: once, for both units, in this version."""

NotBudget = Literal["declined", "not-fit", "not-ready", "wrong-digest", "wrong-message", "bad-evidence"]
RefusalReason = RefusalCode | NotBudget
"""Codes, so that no text that came from data is in a ledger; docs/reference/ledger-format.md says what each means."""


class _Sampled(Strict):
    """What both mechanisms state of one round, as the plan fixes it."""

    sampling_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    noise_multiplier: PositiveReal
    clip_l2: PositiveReal
    steps_planned: Annotated[int, Field(gt=0)]
    validation_noise_multiplier: PositiveReal | None  # of the round's validation sums; null: it publishes none


class LocalNoise(_Sampled):
    """DP-SGD: this silo noises every step, and needs nobody else for its promise."""

    kind: Literal["dp-sgd"] = "dp-sgd"


class SharedNoise(_Sampled):
    """One noised sum, its noise made up by this many honest members of the round's sum together."""

    kind: Literal["shared-noise-sum"] = "shared-noise-sum"
    noise_shares: Annotated[int, Field(ge=2, le=MOST_PARTICIPANTS)]


Mechanism = Annotated[LocalNoise | SharedNoise, Field(discriminator="kind")]


def mechanism_of(dp: DpSgd) -> LocalNoise | SharedNoise:
    """What a plan promises for each round."""
    stated = _Sampled(
        sampling_rate=dp.sampling_rate,
        noise_multiplier=dp.noise_multiplier,
        clip_l2=dp.clip_l2,
        steps_planned=dp.steps_per_round,
        validation_noise_multiplier=None if dp.metrics is None else dp.metrics.noise_multiplier,
    ).model_dump()
    return LocalNoise(**stated) if dp.noise == "local" else SharedNoise(noise_shares=dp.noise_shares, **stated)


class Charge(Strict):
    """What one event costs on its own. `epsilon` is the Renyi figure that counts; PLD stands beside."""

    event: Event
    accountant: Text
    rdp: Rdp
    epsilon: NonNegative
    epsilon_pld: NonNegative | None
    delta: Delta

    @classmethod
    def of(cls, event: Event, delta: float) -> Self:
        """Price an event (two accountants, up to 2 s the first time)."""
        vector = rdp_vector(event)
        return cls(
            event=event,
            accountant=ACCOUNTANT,
            rdp=vector,
            epsilon=rdp_epsilon(vector, delta),
            epsilon_pld=pld_epsilon(event, delta),
            delta=delta,
        )


class Balance(Strict):
    """The population's budget after this entry."""

    filter_order: float | None
    spent_epsilon: NonNegative  # committed
    charged_epsilon: NonNegative  # committed and reserved
    remaining_epsilon: NonNegative

    @classmethod
    def of(cls, state: BudgetState) -> Self:
        """As the budget says."""
        return cls(
            filter_order=state.filter_order,
            spent_epsilon=state.spent_epsilon,
            charged_epsilon=state.charged_epsilon,
            remaining_epsilon=state.left_epsilon,
        )


class Asked(Strict):
    """What a budget was asked for: this many rounds, each at this cost, for this purpose."""

    purpose: Text | None = None  # entries from before there were sub-caps do not have it
    rounds: Annotated[int, Field(gt=0, le=1_000_000)]
    charge: Charge

    @model_serializer(mode="wrap")
    def _as_it_was(self, usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """None is not written: so old entries keep their bytes."""
        written: dict[str, Any] = usual(self)
        if self.purpose is None:
            del written["purpose"]
        return written
