"""Round states as canonical JSON and back: what the journal keeps of a round."""

import dataclasses
from datetime import datetime
from typing import Any

from privacy.canonical import canonical_json, parse_canonical
from privacy.errors import InternalError
from privacy.plan import RoundContext
from silo_agent import round_states as machine
from silo_agent.round_states import State

_STATES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        machine.Joined,
        machine.Reserved,
        machine.Trained,
        machine.Sealed,
        machine.Submitted,
        machine.Fingerprinted,
        machine.Withdrawn,
        machine.Consented,
        machine.Certified,
        machine.Released,
        machine.Unlocked,
        machine.Opened,
        machine.Applied,
        machine.Refused,
        machine.Burnt,
    )
}


def encode_state(state: State) -> tuple[str, bytes]:
    """The state's name and its fields as canonical JSON."""
    fields = {field.name: _plain(getattr(state, field.name)) for field in dataclasses.fields(state)}
    return type(state).__name__, canonical_json(fields)


def decode_state(name: str, document: bytes) -> State:
    """The inverse of `encode_state`. Raises InternalError on anything else: the journal is ours."""
    kind = _STATES.get(name)
    values = parse_canonical(document, "round journal")
    if kind is None or not isinstance(values, dict):
        raise InternalError("round journal", f"holds an unknown state {name!r}", "Was silo.db altered? Restore it.")
    try:
        fields = {field.name: _value(field.name, values[field.name]) for field in dataclasses.fields(kind)}
    except (KeyError, TypeError, ValueError) as error:
        raise InternalError("round journal", f"state {name} is damaged", "Restore silo.db from a backup.") from error
    state: State = kind(**fields)
    return state


def _plain(value: object) -> Any:  # noqa: ANN401 - a JSON value
    match value:
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat()
        case tuple():
            return list(value)
        case RoundContext():
            return {
                "plan": value.plan_digest.hex(),
                "round": value.round_number,
                "adapter": value.adapter_digest.hex(),
                "participants": list(value.participants),
            }
    return value


def _value(name: str, value: Any) -> object:  # noqa: ANN401 - a JSON value
    match name:
        case "since_utc":
            return datetime.fromisoformat(value)
        case "transcript" | "adapter_digest" | "commit":
            return bytes.fromhex(value)
        case "validation":
            return tuple(value)
        case "ctx":
            plan, adapter = bytes.fromhex(value["plan"]), bytes.fromhex(value["adapter"])
            return RoundContext(plan, value["round"], adapter, tuple(value["participants"]))
    return value
