"""Names of parties: the URI that stands in every certificate's subject alternative name."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from privacy.errors import ConfigError, ProtocolError
from privacy.fields import NAME, NOT_A_NAME

_URI = re.compile(r"cloister://([^/]{1,63})/([a-z]{1,20})/([^/]{1,63})")


class Role(StrEnum):
    """What a party may do; certificates carry it and every RPC is allowed to named roles only."""

    SILO = "silo"
    AGGREGATOR = "aggregator"
    COORDINATOR = "coordinator"
    AUDITOR = "auditor"


@dataclass(frozen=True)
class PartyId:
    """One party of one federation. Raises ConfigError for a federation or a name that `privacy.plan.NAME` refuses."""

    federation: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        """Refuses bad names."""
        for field, value in (("federation", self.federation), ("name", self.name)):
            if not NAME.fullmatch(value):
                raise ConfigError(f"{field} {value[:80]!r}", NOT_A_NAME, "Choose a name such as hospital-a.")

    @property
    def uri(self) -> str:
        """`cloister://<federation>/<role>/<name>`; `parse` is its exact inverse."""
        return f"cloister://{self.federation}/{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The party a URI names. Raises ProtocolError unless it is exactly the form that `uri` gives."""
        match = _URI.fullmatch(uri)
        if match is None or match[2] not in set(Role) or not (NAME.fullmatch(match[1]) and NAME.fullmatch(match[3])):
            raise ProtocolError(
                f"party name {uri[:200]!r}",
                "is not cloister://<federation>/<role>/<name>",
                "The certificate must be issued by `cloister certs` or by enrolment.",
            )
        return cls(match[1], Role(match[2]), match[3])
