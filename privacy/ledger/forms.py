"""Entries read quickly: the canonical text of each kind as regular expressions, made from its model.

A canonical object has its members in one order, all of them, without space, and a kind has one set of members. So its
text is a fixed one with holes: scalars, which an expression matches (privacy.ledger.scalars), and members with an
inside (a charge, a mechanism), between which the expressions stand. Most insides repeat from entry to entry: one is
decoded the general way once and remembered by its text, and equal texts mean equal values.

Whatever is read here the general way reads alike: a text is matched from its first character to its last, by
expressions for canonical texts and by insides that were found canonical. The rest is left to the general way, which
also says what is wrong with it. `tests/properties/test_ledger_codec.py` holds the two against each other.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Generic, TypeVar, get_args

from pydantic import Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import ProtocolError
from privacy.fields import Strict
from privacy.ledger.entry import AnyEntry
from privacy.ledger.scalars import Scalar, scalar_of

REMEMBERED = 1024
"""So many insides of each type are remembered, of at most LONGEST_INSIDE characters each."""

LONGEST_INSIDE = 8192

Reader = Callable[[str], Any]
_Model = TypeVar("_Model", bound=Strict)


class NotPlain(Exception):  # noqa: N818 - no failure: the general way reads it, or says what is wrong
    """This text cannot be read here."""


def read_plain(data: bytes) -> AnyEntry | None:
    """The entry that these bytes are the encoding of; None if that has to be found the general way."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    head = _HEAD.match(text)
    for form in _FORMS.get(head[1], ()) if head else ():
        try:
            return form.read(text)
        except NotPlain:
            continue
    return None


@dataclass(frozen=True)
class _Inside:
    """A member that is no scalar: what follows its text, and how that is read."""

    before: str
    read: Reader


class Form(Generic[_Model]):
    """The canonical texts of one model."""

    def __init__(self, model: type[_Model]) -> None:
        self._model = model
        self._names: list[str] = []
        self._convert: dict[str, Reader] = {}
        self._reals: list[str] = []
        self._stretches = list(self._compiled())
        self._all_fields = set(self._names)
        self._by_field = _ruled_by_field(model)

    def read(self, text: str) -> _Model:
        """What the text means. Raises NotPlain."""
        said: list[Any] = []
        at = 0
        for stretch, inside in self._stretches:
            match = stretch.match(text, at)
            if match is None:
                raise NotPlain
            said += match.groups()
            if inside is not None:
                start, at = match.end(), text.find(inside.before, match.end())
                if at < 0:
                    raise NotPlain
                said.append(inside.read(text[start:at]))
        values = dict(zip(self._names, said, strict=True))
        for name, convert in self._convert.items():
            values[name] = convert(values[name])
        if self._reals:
            self._convert_reals(values)
        return self._made(values) if self._by_field else self._validated(values)

    def _compiled(self) -> Iterator[tuple[re.Pattern[str], _Inside | None]]:
        """The expressions, each with the member that stands between it and the next."""
        members = sorted((field.alias or name, name) for name, field in self._model.model_fields.items())
        following = [f',"{alias}":' for alias, _ in members[1:]] + ["}"]
        source, opening = "", "{"
        for (alias, name), before in zip(members, following, strict=True):
            field = self._model.model_fields[name]
            source += re.escape(f'{opening}"{alias}":')
            scalar = scalar_of(field.annotation, field.metadata)
            if scalar is None:
                yield re.compile(source, re.ASCII), _Inside(before, _reader(field))
                source = ""
            else:
                source += scalar.pattern
                self._note(name, scalar)
            self._names.append(name)
            opening = ","
        yield re.compile(source + r"\}\Z", re.ASCII), None

    def _note(self, name: str, scalar: Scalar) -> None:
        if scalar.kind is float:
            self._reals.append(name)
        elif scalar.kind is not str:
            self._convert[name] = _truth if scalar.kind is bool else _whole

    def _convert_reals(self, values: dict[str, Any]) -> None:
        """As doubles, if each is the shortest text of one; without exponents all printers agree on that."""
        texts = "[" + ",".join([values[name] or "null" for name in self._reals]) + "]"
        numbers = from_json(texts)
        if to_json(numbers).decode() != texts:
            raise NotPlain
        for name, number in zip(self._reals, numbers, strict=True):
            values[name] = None if number is None else float(number)

    def _made(self, values: dict[str, Any]) -> _Model:
        """The value, as `model_construct` makes it, without its look at every field."""
        made = object.__new__(self._model)
        object.__setattr__(made, "__dict__", values)
        object.__setattr__(made, "__pydantic_fields_set__", self._all_fields)
        object.__setattr__(made, "__pydantic_extra__", None)
        object.__setattr__(made, "__pydantic_private__", None)
        return made

    def _validated(self, values: dict[str, Any]) -> _Model:
        """The value, if the rules that are about several fields admit it."""
        by_alias = {field.alias or name: values[name] for name, field in self._model.model_fields.items()}
        try:
            return self._model.model_validate(by_alias)
        except ValidationError as error:
            raise NotPlain from error


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)


def _truth(text: str | None) -> bool | None:
    return None if text is None else text == "true"


def _ruled_by_field(model: type[Strict]) -> bool:
    """Whether the model's fields say all that there is to check."""
    decorators = model.__pydantic_decorators__
    ruled = any(getattr(decorators, each.name) for each in fields(decorators))
    return not ruled and model.__pydantic_post_init__ is None


def _reader(field: FieldInfo) -> Reader:
    """How the text of a member with an inside is read; fields of one type remember together."""
    model = field.annotation
    if isinstance(model, type) and issubclass(model, Strict) and not field.metadata and _flat(model):
        return Form(model).read
    kept_as = repr((model, field.metadata, field.discriminator))
    if kept_as not in _READERS:
        _READERS[kept_as] = _remembering(field)
    return _READERS[kept_as]


def _flat(model: type[Strict]) -> bool:
    """Whether it has scalars alone, and no rule is about several of them."""
    scalars = [scalar_of(field.annotation, field.metadata) for field in model.model_fields.values()]
    return None not in scalars and _ruled_by_field(model)


def _remembering(field: FieldInfo) -> Reader:
    """A reader that decodes the general way, and remembers."""
    member = Field(discriminator=field.discriminator) if field.discriminator else Field()
    holder = create_model("Member", __base__=Strict, inside=(field.rebuild_annotation(), member))

    @lru_cache(REMEMBERED)
    def read(text: str) -> Any:  # noqa: ANN401
        if len(text) > LONGEST_INSIDE:
            raise NotPlain
        try:
            found = holder.model_validate({"inside": parse_canonical(text.encode(), "member")})
        except (ProtocolError, ValidationError) as error:
            raise NotPlain from error
        if canonical_json(found.model_dump(mode="json")["inside"]) != text.encode():
            raise NotPlain
        return getattr(found, "inside")  # noqa: B009 - a field that mypy cannot know

    return read


_READERS: dict[str, Reader] = {}
_HEAD = re.compile(r'\{"[a-z_0-9]+":(?:"[^"\\]*"|[0-9a-z.]+),"([a-z_0-9]+)":')


def _forms() -> dict[str, list[Form[AnyEntry]]]:
    """All kinds' forms, by the second member, which tells most of them apart; the first is the actor in most."""
    found: dict[str, list[Form[AnyEntry]]] = {}
    for model in get_args(get_args(AnyEntry)[0]):
        second = sorted(field.alias or name for name, field in model.model_fields.items())[1]
        found.setdefault(second, []).append(Form(model))
    return found


_FORMS = _forms()
