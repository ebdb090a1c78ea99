"""Signed statements: what a party says about a job or a round, in one form.

A statement is a frozen value with a `type`; its body is canonical JSON (RFC 8785); the signature is Ed25519
(RFC 8032) by the identity key of the party it names, over `type NUL body`, so that no statement of one type can
stand for another.
"""

import re
from dataclasses import dataclass
from typing import Annotated, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, ValidationError

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ProtocolError
from privacy.fields import Hex32, Name, Strict, first_complaint

SIGNATURE_BYTES = 64
MAX_BODY_BYTES = 256 * 1024

RoundNumber = Annotated[int, Field(ge=1, le=20_000)]


class Statement(Strict):
    """What one party says. Subclasses narrow `type` to one literal and name the party in `signer`."""

    type: str
    plan: Hex32

    @property
    def signer(self) -> str:
        """The name of the party whose identity key signs this."""
        raise TypeError("a statement's subclass names its signer")

    @classmethod
    def label(cls) -> str:
        """The type of all statements of this class."""
        return str(cls.model_fields["type"].default)

    @property
    def once(self) -> str:
        """A party says one thing under each of these for a job and round, ever: its type."""
        return self.type

    def body(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(self.model_dump(mode="json"))


class SiloStatement(Statement):
    """A statement by a silo of the plan's roster."""

    silo: Name

    @property
    def signer(self) -> str:
        """The silo."""
        return self.silo


class RoundStatement(SiloStatement):
    """A silo's statement about one round, bound to its context."""

    round: RoundNumber
    ctx: Hex32


@dataclass(frozen=True)
class Signed:
    """A statement's canonical body and its signature, as they travel and are stored."""

    body: bytes
    signature: bytes


S = TypeVar("S", bound=Statement)


def message_to_sign(statement: Statement) -> bytes:
    """The bytes an identity key signs for this statement."""
    return statement.type.encode() + b"\x00" + statement.body()


def read(signed: Signed, kind: type[S]) -> S:
    """Parse a body strictly, without checking its signature. Raises ProtocolError."""
    what = f"statement {kind.__name__}"
    if len(signed.body) > MAX_BODY_BYTES:
        raise ProtocolError(what, f"has {len(signed.body)} bytes, more than {MAX_BODY_BYTES}", "Send a smaller one.")
    value = parse_canonical(signed.body, what)
    try:
        statement = kind.model_validate(value)
    except ValidationError as error:
        raise ProtocolError(
            what, first_complaint(error), "The sender must follow docs/reference/protocol.md."
        ) from error
    if statement.body() != signed.body:
        raise ProtocolError(what, "does not encode to the bytes that came", "Encode every field, each in one form.")
    return statement


def plan_named(signed: Signed) -> bytes:
    """Which job a statement of any type says that it is about, before anything of it is checked."""
    what = "statement"
    if len(signed.body) > MAX_BODY_BYTES:
        raise ProtocolError(what, f"has {len(signed.body)} bytes, more than {MAX_BODY_BYTES}", "Send a smaller one.")
    value = parse_canonical(signed.body, what)
    plan = value.get("plan") if isinstance(value, dict) else None
    if not isinstance(plan, str) or not re.fullmatch(r"[0-9a-f]{64}", plan):
        raise ProtocolError(what, "names no job", "The sender must follow docs/reference/protocol.md.")
    return bytes.fromhex(plan)


def verify(signed: Signed, kind: type[S], keys: dict[str, bytes]) -> S:
    """Parse a body and check its signature under the key of the party it names.

    `keys` maps names to raw 32-byte Ed25519 public keys. Raises ProtocolError naming the sender and what is wrong.
    """
    statement = read(signed, kind)
    name = statement.signer
    key = keys.get(name)
    if key is None:
        raise ProtocolError(
            f"statement {kind.__name__}",
            f"{name!r} is not in the roster",
            "Only the plan's silos take part; the message was not accepted.",
            sender=name,
        )
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed.signature, message_to_sign(statement))
    except InvalidSignature as error:
        raise ProtocolError(
            f"statement {kind.__name__}",
            f"the signature is not {name}'s",
            "It was altered on its way or signed by another key; it was not accepted.",
            sender=name,
        ) from error
    return statement
