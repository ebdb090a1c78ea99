"""The members of a model's canonical text: in which order they stand, and which of them are read together."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import groupby

from pydantic.fields import FieldInfo

from privacy.fields import Strict
from privacy.ledger.scalars import Scalar, scalar_of

REPEATED = frozenset(
    {"contribution_bound", "dataset", "institution", "job", "kind", "mechanism", "members", "model_sha256", "outcome",
     "population", "precision", "purpose", "reason", "recipient", "rng", "role", "sampler", "software", "unit"}
)  # fmt: skip
"""Members that many entries of a job have in common. This decides how quickly an entry is read, and nothing else."""

_SHORTEST_RUN = 3  # fewer are matched as quickly as looked up


@dataclass(frozen=True)
class Member:
    """A field, and what stands before its value: `opening` (`{` or `,`) and `key` (`"round":`)."""

    opening: str
    key: str
    name: str
    field: FieldInfo

    @property
    def before(self) -> str:
        """An expression for what stands before the value."""
        return re.escape(self.opening + self.key)

    @property
    def scalar(self) -> Scalar | None:
        """What it may say, if it is a scalar that is known."""
        return scalar_of(self.field.annotation, self.field.metadata)

    @property
    def flat(self) -> type[Strict] | None:
        """The model of an object of scalars alone, with no rule about several of them."""
        model = self.field.annotation
        if not (isinstance(model, type) and issubclass(model, Strict)) or self.field.metadata:
            return None
        return model if ruled_by_field(model) and all(each.scalar for each in members_of(model)) else None


def members_of(model: type[Strict]) -> list[Member]:
    """A model's fields in canonical order. Their names are ASCII, so that they sort as RFC 8785 has it."""
    ordered = sorted(model.model_fields.items(), key=lambda item: item[1].alias or item[0])
    return [
        Member("," if place else "{", f'"{field.alias or name}":', name, field)
        for place, (name, field) in enumerate(ordered)
    ]


def grouped(members: list[Member]) -> Iterator[list[Member]]:
    """Members that repeat, as many together as follow one another; every other one by itself."""
    for repeated, group in groupby(members, lambda member: member.name in REPEATED):
        run = list(group)
        if repeated and len(run) >= _SHORTEST_RUN:
            yield run
        else:
            yield from ([member] for member in run)


def ruled_by_field(model: type[Strict]) -> bool:
    """Whether the model's fields say all that there is to check."""
    decorators = model.__pydantic_decorators__
    ruled = any(getattr(decorators, each.name) for each in fields(decorators))
    return not ruled and model.__pydantic_post_init__ is None
