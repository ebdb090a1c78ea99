"""Configuration: one TOML file per program, a strict model, and an environment variable for every value.

`CLOISTER_SILO__AGGREGATOR__ADDRESS=host:1` sets `address` in `[aggregator]` of the program whose prefix is
`CLOISTER_SILO`. A variable's text is read as TOML where the model wants that (`8`, `true`, `["a"]`), else as it is.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import ErrorDetails

from certs.files import read_file
from privacy.errors import ConfigError
from privacy.fields import sentence

T = TypeVar("T", bound=BaseModel)
_Place = tuple[str, ...]


def _require_address(text: str) -> str:
    if not re.fullmatch(r"[^/\s]+:[0-9]{1,5}", text):
        raise ValueError("is not host:port, such as aggregator.example.org:7443")
    return text


Address = Annotated[str, AfterValidator(_require_address)]


def load_config(model: type[T], path: Path, env_prefix: str, environ: Mapping[str, str]) -> T:
    """The validated configuration.

    Raises ConfigError naming the file (or the variable), the key and the nearest valid key when the file is missing,
    is not TOML, or holds an unknown key, a wrong type or a value out of range. Values are never repeated in messages.
    """
    document = read_toml(path)
    overrides = {_place(name, env_prefix): name for name in sorted(environ) if name.startswith(f"{env_prefix}__")}
    for place, name in overrides.items():
        _set(document, place, _as_toml(environ[name]), name)
    try:
        return _validate(model, document)
    except ValidationError as error:
        raw = _with_raw_text(document, error, overrides, environ)
        if not raw:
            raise _complaint(model, f"configuration {path}", error, overrides) from error
    try:
        return _validate(model, document)
    except ValidationError as error:
        raise _complaint(model, f"configuration {path}", error, overrides) from error


def validated(model: type[T], tables: dict[str, Any], where: str) -> T:
    """The tables of a file that is no program's configuration (a job file) as a value of `model`, just as strictly.

    Raises ConfigError at `where`, worded as `load_config` words it, and with the value if that is a number: a job file
    is no secret.
    """
    try:
        return _validate(model, tables)
    except ValidationError as error:
        raise _complaint(model, where, error, {}, numbers=True) from error


def read_toml(path: Path, what: str = "configuration") -> dict[str, Any]:
    """The tables of a file, which errors call `what`. Raises ConfigError when it is missing or is not TOML."""
    step = "Correct the path, or write the file: docs/reference/ has a sample of each."
    data = read_file(path, step)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{what} {path}", f"is not TOML: {error}", "Correct that line.") from error


def _validate(model: type[T], document: dict[str, Any]) -> T:
    """JSON mode: strict, but text may become a path or an enumeration's member, and an array a tuple."""
    return model.model_validate_json(json.dumps(document, default=str), strict=True)


def _place(variable: str, prefix: str) -> _Place:
    return tuple(part.lower() for part in variable.removeprefix(f"{prefix}__").split("__"))


def _as_toml(text: str) -> Any:  # noqa: ANN401 - any TOML value
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(document: dict[str, Any], place: _Place, value: Any, variable: str) -> None:  # noqa: ANN401
    for part in place[:-1]:
        inner = document.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"environment variable {variable}", f"{part!r} is not a section", "Correct its name, or unset it."
            )
        document = inner
    document[place[-1]] = value


def _with_raw_text(
    document: dict[str, Any], error: ValidationError, overrides: Mapping[_Place, str], environ: Mapping[str, str]
) -> bool:
    """Give back their own text to the variables that failed as TOML (a name like `123`); whether there were any."""
    failed = [place for place in overrides if any(_concerns(details, place) for details in _details(error))]
    for place in failed:
        _set(document, place, environ[overrides[place]], overrides[place])
    return bool(failed)


def _concerns(details: ErrorDetails, place: _Place) -> bool:
    return tuple(str(part) for part in details["loc"][: len(place)]) == place


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False)


def _complaint(
    model: type[BaseModel], file: str, error: ValidationError, overrides: Mapping[_Place, str], *, numbers: bool = False
) -> ConfigError:
    """An unknown key first: a mistyped key also shows as a missing one. With `numbers`, those are repeated."""
    details = min(_details(error), key=lambda item: item["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in details["loc"]) or "the file"
    variable = next((name for place, name in overrides.items() if _concerns(details, place)), None)
    where = f"environment variable {variable}" if variable else file
    if details["type"] != "extra_forbidden":
        said = f" is {str(value)[:40]}" if numbers and type(value := details["input"]) in (int, float) else ""
        return ConfigError(where, f"{key}{said}: {sentence(details)}", "Correct the value.")
    name, valid = str(details["loc"][-1]), _valid_keys(model, details["loc"][:-1])
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"Valid here: {', '.join(sorted(valid))}."
    return ConfigError(where, f"unknown key {key!r}", hint)


def _valid_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> set[str]:
    """The keys allowed at `place`: of every model that can stand there."""
    models = {model}
    for part in place:
        found = {
            inner
            for outer in models
            if str(part) in outer.model_fields
            for inner in _models_in(outer.model_fields[str(part)].annotation)
        }
        models = found or models  # a list's index or a union's tag names no field
    return {key for found_model in models for key in found_model.model_fields}


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
