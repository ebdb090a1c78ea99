"""Which canonical texts an entry's scalar fields may have, as regular expressions made from the fields' types.

An expression matches only canonical texts of values that the field takes, and need not match all of them: what it
leaves out (escapes, exponents, very long numbers) is read the general way. A type that is not known here has none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import Field
from pydantic.fields import FieldInfo

from privacy.fields import NAME, Hex32, Name, Text, Utc

_PLAIN = re.compile(r"[a-z0-9./-]+")
_POSITIVE = r"0\.[0-9]*[1-9]|[1-9][0-9]{0,14}(?:\.[0-9]*[1-9])?"
_SAFE_DIGITS = 15  # every integer of so many is exact in a double


@dataclass(frozen=True)
class Scalar:
    """A field of one string, number or truth value; the one group of `pattern` is its text without quotes.

    A float's text must besides be the one that its value is printed as.
    """

    pattern: str
    kind: type[str | int | float | bool]
    nullable: bool = False  # the group matches nothing where the text is null
    only: str | int | None = None  # what it says, if it can say one thing alone


def scalar_of(annotation: Any, metadata: Sequence[Any]) -> Scalar | None:  # noqa: ANN401 - any type there is
    """The texts of a field with this type and these constraints; None if it is no scalar, or not known here."""
    base, constraints = _flat(annotation, metadata)
    if get_origin(base) in (Union, UnionType):
        return _nullable(get_args(base), constraints)
    if get_origin(base) is Literal:
        return _literal(get_args(base)) if not constraints else None
    pattern = None
    if base is str:
        pattern = _STRINGS.get(repr(constraints))
    elif base is int:
        pattern = _integers(constraints)
    elif base is float:
        pattern = _reals(constraints)
    elif base is bool and not constraints:
        pattern = "(true|false)"
    return None if pattern is None else Scalar(pattern, base)


def _flat(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, list[Any]]:  # noqa: ANN401
    """The bare type, and all constraints on it."""
    if get_origin(annotation) is not Annotated:
        return annotation, list(metadata)
    base, *extra = get_args(annotation)
    found = [each for more in extra for each in (more.metadata if isinstance(more, FieldInfo) else [more])]
    return _flat(base, [*found, *metadata])


def _strings(annotation: Any, pattern: str) -> tuple[str, str]:  # noqa: ANN401
    return repr(_flat(annotation, ())[1]), f'"({pattern})"'


_STRINGS = dict(
    (
        _strings(Name, NAME.pattern),
        _strings(Hex32, "[0-9a-f]{64}"),
        _strings(Utc, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
        _strings(Text, r'[^"\\\x00-\x1f]{1,400}'),
    )
)
_FINITE = repr(_flat(Annotated[float, Field(allow_inf_nan=False)], ())[1])


def _nullable(options: Sequence[Any], constraints: Sequence[Any]) -> Scalar | None:
    some = [option for option in options if option is not NoneType]
    if len(some) != 1 or len(options) != 2 or constraints:
        return None
    found = scalar_of(some[0], ())
    return None if found is None else Scalar(f"(?:{found.pattern}|null)", found.kind, nullable=True)


def _literal(values: Sequence[Any]) -> Scalar | None:
    only = values[0] if len(values) == 1 else None
    if all(type(value) is str and _PLAIN.fullmatch(value) for value in values):
        return Scalar(f'"({"|".join(map(re.escape, values))})"', str, only=only)
    if all(type(value) is int and 0 <= value < 10**_SAFE_DIGITS for value in values):
        return Scalar(f"({'|'.join(map(str, values))})", int, only=only)
    return None


def _integers(constraints: Sequence[Any]) -> str | None:
    """Those of at most as many digits as no bound cuts off."""
    zero, digits = "0|", _SAFE_DIGITS
    for each in constraints:
        match each:
            case Ge(ge=0):
                pass
            case Ge(ge=1) | Gt(gt=0):
                zero = ""
            case Le(le=int(most)) if most >= 10:
                digits = min(digits, len(str(most)) - 1)
            case _:
                return None
    return f"({zero}[1-9][0-9]{{0,{digits - 1}}})"


def _reals(constraints: Sequence[Any]) -> str | None:
    zero = "0|"
    for each in constraints:
        match each:
            case Ge(ge=0):
                pass
            case Gt(gt=0):
                zero = ""
            case _ if repr([each]) == _FINITE:
                pass
            case _:
                return None
    return f"({zero}{_POSITIVE})"
