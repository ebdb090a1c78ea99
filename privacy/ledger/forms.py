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
from typing import Any, Generic, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from privacy.canonical import canonical_json
from privacy.fields import Strict
from privacy.ledger.entry import AnyEntry
from privacy.ledger.members import Member, grouped, members_of, ruled_by_field
from privacy.ledger.runs import NotPlain, Run
from privacy.ledger.scalars import Scalar

_Model = TypeVar("_Model", bound=Strict)


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
    """The canonical texts of one model, read by a function that is written for it, as those of `dataclasses` are.

    The function of a kind with two scalars around a run, and a third that is of an object:

        def read(text):
            at = 0
            match = v6(text, at)
            if match is None: raise NotPlain
            g1, = match.groups()
            at, v7_said = v7(text, match.end(), ',"round":')
            match = v8(text, at)
            if match is None: raise NotPlain
            g2, g3, = match.groups()
            return make({'actor': g1, **v7_said, 'round': int(g2), 'balance': v9({'spent_epsilon': real(g3)})})
    """

    def __init__(self, model: type[_Model]) -> None:
        self._known: dict[str, Any] = {"NotPlain": NotPlain, "make": _maker(model), **_CONVERSIONS}
        self._steps: list[str] = []
        self._members: list[str] = []  # of the value: `"round": int(g3)`
        self._groups: list[str] = []  # of the expression that is being made
        self._count = 0
        self.read: Callable[[str], _Model] = self._compile(model)
        """What a text means. Raises NotPlain."""

    def _compile(self, model: type[Strict]) -> Callable[[str], _Model]:
        """The function; each expression but the last ends with what stands before its run."""
        groups = list(grouped(members_of(model)))
        following = [*(group[0].opening + group[0].key for group in groups[1:]), "}"]
        source = ""
        for group, before in zip(groups, following, strict=True):
            pattern = self._pattern(group[0]) if len(group) == 1 else None
            if pattern is not None:
                source += pattern
            else:
                self._match(source + re.escape(group[0].opening))
                self._look_up(_run(group), before)
                source = ""
        self._match(source + r"\}\Z")
        lines = ["def read(text):", "at = 0", *self._steps, f"return make({{{', '.join(self._members)}}})"]
        exec("\n    ".join(lines), self._known)  # noqa: S102 - of the models' fields and literals alone, by repr
        return cast("Callable[[str], _Model]", self._known["read"])

    def _match(self, expression: str) -> None:
        matching = self._name(re.compile(expression, re.ASCII).match)
        self._steps += [f"match = {matching}(text, at)", "if match is None: raise NotPlain"]
        if self._groups:
            self._steps.append(f"{', '.join(self._groups)}, = match.groups()")
        self._groups = []

    def _look_up(self, run: Run, before: str) -> None:
        """`before` is the text that should follow the run."""
        read = self._name(run.read)
        self._steps.append(f"at, {read}_said = {read}(text, match.end(), {before!r})")
        self._members.append(f"**{read}_said")

    def _pattern(self, member: Member) -> str | None:
        """The expression of a scalar or of an object of scalars, else None; what its groups say is noted."""
        if member.scalar is not None:
            pattern, source = self._scalar(member.scalar)
        elif member.flat is not None:
            inner = [(each.name, each.before, each.scalar) for each in members_of(member.flat)]
            scalars = [(name, before, *self._scalar(scalar)) for name, before, scalar in inner if scalar is not None]
            pattern = "".join(before + pattern for _, before, pattern, _ in scalars) + r"\}"
            said = ", ".join(f"{name!r}: {of_scalar}" for name, _, _, of_scalar in scalars)
            source = f"{self._name(_maker(member.flat))}({{{said}}})"
        else:
            return None
        self._members.append(f"{member.name!r}: {source}")
        return member.before + pattern

    def _scalar(self, scalar: Scalar) -> tuple[str, str]:
        """Its expression, and what its value is called in the function."""
        if scalar.only is not None:
            return re.escape(canonical_json(scalar.only).decode()), repr(scalar.only)
        self._count += 1
        group = f"g{self._count}"
        self._groups.append(group)
        conversion = _NAMES[scalar.kind, scalar.nullable]
        return scalar.pattern, f"{conversion}({group})" if conversion else group

    def _name(self, value: object) -> str:
        """What the function calls this value."""
        name = f"v{len(self._known)}"
        self._known[name] = value
        return name


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)


def _truth(text: str | None) -> bool | None:
    return None if text is None else text == "true"


@lru_cache(1024)
def _real(text: str | None) -> float | None:
    """The double of which this is the shortest text; without an exponent all printers agree on that one."""
    if text is None:
        return None
    value = float(text)
    if not text.isdigit() and to_json(value).decode() != text:
        raise NotPlain
    return value


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"int": int, "whole": _whole, "truth": _truth, "real": _real}
_NAMES = {
    (str, False): "", (str, True): "", (int, False): "int", (int, True): "whole",
    (bool, False): "truth", (bool, True): "truth", (float, False): "real", (float, True): "real",
}  # fmt: skip
"""How a group becomes what the field holds: by its type, and by whether it may be null."""


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
