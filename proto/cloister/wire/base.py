"""Strict decoding of the wire: protobuf in, frozen validated values out, and back.

Each message class names its protobuf twin and gives every field's bounds. `decode` refuses unknown fields, unknown
enum numbers, missing parts of a oneof, and anything outside the bounds with a ProtocolError that names the field;
`encode` is its inverse. What is signed travels inside as opaque canonical bytes (privacy/statement.py).
"""

from enum import IntEnum
from typing import Annotated, Any, ClassVar, Self

from google.protobuf.message import Message as Proto
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cloister.v1 import common_pb2
from privacy.errors import ProtocolError
from privacy.fields import first_complaint
from privacy.statement import MAX_BODY_BYTES, Signed

MAX_CHUNK_BYTES = 1 << 20
MAX_TRANSCRIPT_BYTES = 4 << 20  # all that 100 silos say in a round of ckks-multikey, as a record
MAX_REQUEST_BYTES = MAX_CHUNK_BYTES + (64 << 10)
MAX_ANSWER_BYTES = MAX_TRANSCRIPT_BYTES + (64 << 10)
MAX_COHORT = 100
MOST_VALIDATIONS = 50

Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
Body = Annotated[bytes, Field(min_length=2, max_length=MAX_BODY_BYTES)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]
Part = Annotated[bytes, Field(min_length=1, max_length=MAX_CHUNK_BYTES)]
Pem = Annotated[bytes, Field(min_length=1, max_length=16 << 10)]
PartyName = Annotated[str, Field(min_length=1, max_length=63)]
Label = Annotated[str, Field(max_length=200)]
Sentence = Annotated[str, Field(max_length=2000)]
Number = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PlanBytes = Annotated[bytes, Field(min_length=2, max_length=512 << 10)]


class JobPhase(IntEnum):
    """Where a job stands (common.proto)."""

    JOINING = common_pb2.JOB_PHASE_JOINING
    DEALING = common_pb2.JOB_PHASE_DEALING
    RUNNING = common_pb2.JOB_PHASE_RUNNING
    FINISHED = common_pb2.JOB_PHASE_FINISHED
    STOPPED = common_pb2.JOB_PHASE_STOPPED
    CANCELLED = common_pb2.JOB_PHASE_CANCELLED

    @property
    def closed(self) -> bool:
        """True once nothing more will happen in the job."""
        return self >= JobPhase.FINISHED


class RoundPhase(IntEnum):
    """Where a round stands (common.proto); NONE before a job's first round."""

    NONE = common_pb2.ROUND_PHASE_UNSPECIFIED
    ANNOUNCED = common_pb2.ROUND_PHASE_ANNOUNCED
    COLLECTING = common_pb2.ROUND_PHASE_COLLECTING
    FINGERPRINTING = common_pb2.ROUND_PHASE_FINGERPRINTING
    COMMITTED = common_pb2.ROUND_PHASE_COMMITTED
    SHARING = common_pb2.ROUND_PHASE_SHARING
    RELEASING = common_pb2.ROUND_PHASE_RELEASING
    PUBLISHED = common_pb2.ROUND_PHASE_PUBLISHED
    ABORTED = common_pb2.ROUND_PHASE_ABORTED


_TWINS: dict[type[Proto], type["WireMessage"]] = {}


class WireMessage(BaseModel):
    """A decoded message: frozen, bounded, its fields named as in its protobuf twin."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    proto: ClassVar[type[Proto]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Remember which class decodes which protobuf type, for messages inside messages."""
        if "proto" in cls.__dict__:
            _TWINS[cls.proto] = cls

    def encode(self) -> Any:  # noqa: ANN401 - the twin's type; callers hand it to the generated stub
        """The protobuf message. Fields that are None stay absent."""
        values = {name: _to_proto(getattr(self, name)) for name in type(self).model_fields}
        return self.proto(**{name: value for name, value in values.items() if value is not None})

    @classmethod
    def decode(cls, message: Proto) -> Self:
        """Read a message strictly. Raises ProtocolError naming the message and the field."""
        what = cls.__name__
        next_step = "Nothing of it was accepted; the sender may run another version of Cloister."
        if len(UnknownFieldSet(message)):
            raise ProtocolError(what, "has fields this version does not know", next_step)
        values: dict[str, Any] = {}
        for field in message.DESCRIPTOR.fields:
            if field.has_presence and not message.HasField(field.name):
                values[field.name] = None
                continue
            value = getattr(message, field.name)
            values[field.name] = tuple(value) if field.is_repeated else value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ProtocolError(what, first_complaint(error), next_step) from error

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic's signature
        return {name: _from_proto(value) for name, value in data.items()} if isinstance(data, dict) else data


class SignedStatement(WireMessage):
    """A statement's body and signature; `privacy.statement.verify` makes sense of it."""

    proto = common_pb2.SignedStatement
    body: Body
    signature: Signature


def _to_proto(value: Any) -> Any:  # noqa: ANN401 - walks nested values
    match value:
        case WireMessage():
            return value.encode()
        case Signed(body=body, signature=signature):
            return common_pb2.SignedStatement(body=body, signature=signature)
        case tuple():
            return [_to_proto(item) for item in value]
        case IntEnum():
            return int(value)
    return value


def _from_proto(value: Any) -> Any:  # noqa: ANN401 - walks nested values
    match value:
        case common_pb2.SignedStatement():
            statement = SignedStatement.decode(value)
            return Signed(statement.body, statement.signature)
        case Proto():
            return _TWINS[type(value)].decode(value)
        case tuple():
            return tuple(_from_proto(item) for item in value)
    return value


class OneOf(WireMessage):
    """A message whose fields are the branches of one oneof."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("must carry exactly one part")
        return self
