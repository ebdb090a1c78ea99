"""What a budget answers when it is asked what some rounds would cost."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Forecast:
    """What some rounds would do to a budget, without doing it."""

    rounds_asked: int
    rounds_that_fit: int
    epsilon_before: float
    epsilon_after: float  # if all that were asked ran, whether they fit or not
    epsilon_needed: float  # the least policy epsilon, at the policy's delta, under which all of them fit

    @property
    def fits(self) -> bool:
        """Whether every round that was asked for would be admitted."""
        return self.rounds_that_fit >= self.rounds_asked
