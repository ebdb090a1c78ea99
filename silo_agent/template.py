"""Sentence templates: one sentence from the columns of one record.

A template is text with `{column}` in it, `{{` and `}}` for braces. It is parsed strictly: a field is the name of a
column and nothing else, so that no attribute, index, conversion or format can be reached through it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from privacy.errors import ConfigError

_DECIMAL = re.compile(r"^-?\d+\.\d+$")
_FORBIDDEN = frozenset(".[]{}!:")


@dataclass(frozen=True)
class Template:
    """Alternating literal text and column names; `literals` has one more item than `columns`."""

    literals: tuple[str, ...]
    columns: tuple[str, ...]

    def fill(self, values: Mapping[str, str]) -> str:
        """The sentence of one record. `values` must have every column (KeyError is the caller's bug)."""
        parts = [self.literals[0]]
        for column, literal in zip(self.columns, self.literals[1:], strict=True):
            parts += [values[column], literal]
        return "".join(parts)


def parse_template(text: str) -> Template:
    """Parse a template. Raises ConfigError on stray braces, empty fields, attributes, indices, formats, no column."""
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise _wrong(str(error).lower()) from error
    literals, columns, pending = [], [], ""
    for literal, field, form, conversion in pieces:
        pending += literal
        if field is None:
            continue
        if form or conversion:
            raise _wrong(f"the field {{{field}}} carries a format or a conversion")
        if not field.strip() or field != field.strip() or _FORBIDDEN & set(field) or field.isdigit():
            raise _wrong(f"{{{field}}} is not the plain name of a column")
        literals.append(pending)
        columns.append(field)
        pending = ""
    if not columns:
        raise _wrong("it names no column, so every record would read the same")
    return Template((*literals, pending), tuple(columns))


def as_text(value: object) -> str:
    """How a cell is written in a sentence: numbers in their shortest form (`63.0` is `63`), text stripped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    return text.rstrip("0").rstrip(".") if _DECIMAL.match(text) else text


def _wrong(why: str) -> ConfigError:
    return ConfigError("sentence template", why, "Write {column} for a column's value, and {{ or }} for a brace.")
