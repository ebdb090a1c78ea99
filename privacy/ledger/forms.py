"""Entries read quickly: the canonical text of each kind as regular expressions, made from its model.

A canonical object has its members in one order, all of them, without space, and a kind has one set of members. So its
text is a fixed one with holes: scalars, which an expression matches (privacy.ledger.scalars), and runs of members that
repeat from entry to entry, such as a charge, between which the expressions stand. A run is decoded the general way once
and remembered by its text; equal texts mean equal values (privacy.ledger.runs).

Whatever is read here the general way reads alike: a text is matched from its first character to its last, by
expressions for canonical texts and by runs that were found canonical. The rest is left to the general way, which also
says what is wrong with it. `tests/properties/test_ledger_codec.py` holds the two against each other.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from privacy.canonical import canonical_json
from privacy.fields import Strict
from privacy.ledger.entry import AnyEntry
from privacy.ledger.members import Member, grouped, members_of, ruled_by_field
from privacy.ledger.runs import NotPlain, Run
from privacy.ledger.scalars import Scalar

_Model = TypeVar("_Model", bound=Strict)
_Matching = Callable[[str, int], re.Match[str] | None]


def read_plain(data: bytes) -> AnyEntry | None:
    """The entry that these bytes are the encoding of; None if that has to be found the general way."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    begin = text.find('","') + 3  # the first member says a text, which has no quote in it where it can be read here
    for form in _forms().get(text[begin : text.find('"', begin)], ()):
        try:
            return form.read(text)
        except NotPlain:
            continue
    return None


class Form(Generic[_Model]):
    """The canonical texts of one model.

    The expressions' groups together are a list of what the text says. In it, what is no string is converted, then each
    object of scalars becomes one value; the other fields come from the runs.
    """

    def __init__(self, model: type[_Model]) -> None:
        self._make = _maker(model)
        self._blank: dict[str, Any] = dict.fromkeys(member.name for member in members_of(model))
        self._stretches: list[tuple[_Matching, str, Run | None]] = []
        self._names: list[str] = []  # of the fields that are in no run
        self._convert: list[tuple[int, Callable[[Any], Any]]] = []
        self._objects: list[tuple[int, int, list[str], Callable[[dict[str, Any]], Strict]]] = []  # the last one first
        self._groups = 0
        self._compile(model)

    def read(self, text: str) -> _Model:
        """What the text means. Raises NotPlain."""
        said: list[Any] = []
        values = self._blank.copy()
        at = 0
        for matching, before, run in self._stretches:
            match = matching(text, at)
            if match is None:
                raise NotPlain
            said += match.groups()
            if run is not None:
                at, known = run.read(text, match.end(), before)
                values |= known
        for place, convert in self._convert:
            said[place] = convert(said[place])
        for begin, end, names, make in self._objects:
            said[begin:end] = [make(dict(zip(names, said[begin:end], strict=False)))]  # as many as groups: see _compile
        values.update(zip(self._names, said, strict=False))
        return self._make(values)

    def _compile(self, model: type[Strict]) -> None:
        """The expressions; but for the last, each with what should follow the run after it, and with the run."""
        groups = list(grouped(members_of(model)))
        following = [*(group[0].opening + group[0].key for group in groups[1:]), "}"]
        source = ""
        for group, before in zip(groups, following, strict=True):
            pattern = self._pattern(group[0]) if len(group) == 1 else None
            if pattern is not None:
                source += pattern
            else:
                self._stretches.append((_expression(source + re.escape(group[0].opening)), before, _run(group)))
                source = ""
        self._stretches.append((_expression(source + r"\}\Z"), "", None))

    def _pattern(self, member: Member) -> str | None:
        """The expression of a scalar or of an object of scalars, else None; what its groups say is noted."""
        begin, scalar, inner = self._groups, member.scalar, member.flat
        if scalar is not None and scalar.only is not None:
            self._blank[member.name] = scalar.only
            return member.before + re.escape(canonical_json(scalar.only).decode())
        if scalar is not None:
            pattern = self._group(scalar)
        elif inner is not None:
            members = members_of(inner)
            pattern = "".join(each.before + self._group(each.scalar) for each in members if each.scalar) + r"\}"
            self._objects.insert(0, (begin, self._groups, [each.name for each in members], _maker(inner)))
        else:
            return None
        self._names.append(member.name)
        return member.before + pattern

    def _group(self, scalar: Scalar) -> str:
        if scalar.kind is not str:
            convert = int if scalar.kind is int and not scalar.nullable else _CONVERT[scalar.kind]
            self._convert.append((self._groups, convert))
        self._groups += 1
        return scalar.pattern


def _expression(source: str) -> _Matching:
    return re.compile(source, re.ASCII).match


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)


def _truth(text: str | None) -> bool | None:
    return None if text is None else text == "true"


@lru_cache(4096)
def _real(text: str | None) -> float | None:
    """The double of which this is the shortest text; without an exponent all printers agree on that one."""
    if text is None:
        return None
    value = float(text)
    if not text.isdigit() and to_json(value).decode() != text:
        raise NotPlain
    return value


_CONVERT: dict[type, Callable[[str | None], Any]] = {int: _whole, bool: _truth, float: _real}


_SLOTS = [
    BaseModel.__dict__[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
]


def _maker(model: type[_Model]) -> Callable[[dict[str, Any]], _Model]:
    """Makes a value from its fields; raises NotPlain where a rule about several of them does not hold."""
    aliases = {member.name: member.field.alias or member.name for member in members_of(model)}
    all_fields, new = set(aliases), object.__new__
    put_values, put_fields_set, put_extra, put_private = _SLOTS

    def make(values: dict[str, Any]) -> _Model:
        """As `model_construct`, without its look at every field."""
        made = new(model)
        put_values(made, values)
        put_fields_set(made, all_fields)
        put_extra(made, None)
        put_private(made, None)
        return made

    def validate(values: dict[str, Any]) -> _Model:
        try:
            return model.model_validate({aliases[name]: value for name, value in values.items()})
        except ValidationError as error:
            raise NotPlain from error

    return make if ruled_by_field(model) else validate


_RUNS: dict[str, Run] = {}


def _run(group: list[Member]) -> Run:
    """The run of these members; equal ones of two kinds remember together."""
    members = [(member.name, member.field) for member in group]
    kept_as = repr(members)
    if kept_as not in _RUNS:
        _RUNS[kept_as] = Run(members)
    return _RUNS[kept_as]


@cache
def _forms() -> dict[str, list[Form[AnyEntry]]]:
    """All kinds' forms, by the second member, which tells most of them apart."""
    found: dict[str, list[Form[AnyEntry]]] = {}
    for model in get_args(get_args(AnyEntry)[0]):
        found.setdefault(members_of(model)[1].key[1:-2], []).append(Form(model))
    return found
