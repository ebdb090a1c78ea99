"""What messages, plans and entries are made of: strict values, and the fields that many of them share."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
NOT_PRINTABLE = "has a character that does not show as itself: a control or format character, a line break"
NOT_A_NAME = "is not a name: 1 to 63 of a-z, 0-9 and inner hyphens"


def _require_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(NOT_A_NAME)
    return text


def _require_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(NOT_PRINTABLE)
    return text


Name = Annotated[str, AfterValidator(_require_name)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Utc = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
Positive = Annotated[int, Field(gt=0)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Range = Annotated[float, Field(ge=1e-30, le=1e30, allow_inf_nan=False)]  # a normal float32
Text = Annotated[str, Field(min_length=1, max_length=400)]
Printable = Annotated[Text, AfterValidator(_require_printable)]  # what people read before they sign it


class Strict(BaseModel):
    """A frozen value that refuses unknown fields and silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def first_complaint(error: ValidationError) -> str:
    """The first of pydantic's complaints as one sentence, without the offending value."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {sentence(first)}" if where else sentence(first)


def sentence(details: ErrorDetails) -> str:
    """What pydantic complains about; of an error that a validator of ours raised, our words alone."""
    return details["msg"].removeprefix("Value error, ")
