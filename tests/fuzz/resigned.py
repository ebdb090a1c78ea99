"""Logs that their owner wrote anew: sound but for what was drawn, and signed. What a verifier must not stumble over."""

import json
from datetime import datetime, timedelta
from functools import cache
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.accounting import ACCOUNTANT, decode_event, rdp_epsilon, rdp_vector
from privacy.canonical import canonical_json
from privacy.errors import CloisterError
from privacy.ledger.checkpoint import parse_note, signature_line
from privacy.ledger.codec import decode_entry
from privacy.ledger.cosignature import Cosignature, cosignatures, cosigner_id, with_lines
from privacy.ledger.verify import Report
from tests.ledger_logs import ORIGIN, Log, sample_log
from tests.mutations import json_changed

TIMES = [datetime(*of, 30) for year in (1, 2000, 9998, 9999) for of in ((year, 1, 1, 0), (year, 12, 31, 23))]
STEPS = [timedelta(minutes=minutes) for minutes in (-61, -30, 0, 60)]
PROBABILITIES = [5e-324, 1e-300, 1e-30, 1e-17, 1e-6, 0.5, 0.999999999999, 1 - 2**-53, 1.0]
SIGMAS = [0.01, 0.3, 1.0, 6.5, 1e4, 1e6]
DELTAS = [5e-324, 1e-300, 1e-16, 1e-9, 1e-3, 0.09]


@cache
def sound() -> Log:
    """Without the review, which names a state of the log that no altered one has had. Raises unless it verifies."""
    log, review = Log(), b'"kind":"review"'
    log.add(*(decode_entry(body) for body in sample_log().entries if review not in body))
    log.sign()
    log.verify()
    return log


def verify_redrawn(draw: Random) -> Report:
    """The verifier's word on a log with up to three things altered that is signed anew. Raises what it raises."""
    entries = [json.loads(body) for body in sound().entries]
    for _ in range(draw.randint(1, 3)):
        entries = draw.choice([_one_changed, _other_times, _other_times, _other_event])(entries, draw)
    log = Log(sound().key, [canonical_json(entry) for entry in entries])
    log.sign()
    report = log.verify()
    assert (report.origin, report.entries) == (ORIGIN, len(entries))
    return report


def _one_changed(entries: list[Any], draw: Random) -> list[Any]:
    at = draw.randrange(len(entries))
    *_, entries[at] = json_changed(entries[at], draw)
    return entries


def _other_times(entries: list[Any], draw: Random) -> list[Any]:
    """From a time at the edge of what there is, on by equal steps."""
    moment, step = draw.choice(TIMES), draw.choice(STEPS)
    for entry in entries:
        if not isinstance(entry, dict):  # altered before
            continue
        entry["utc"] = f"{moment.isoformat()}Z"
        moment = moment + step if datetime.min + abs(step) <= moment <= datetime.max - abs(step) else moment
    return entries


def _other_event(entries: list[Any], draw: Random) -> list[Any]:
    """In a refusal, which nothing else depends on; its Renyi figures are right, where there are any."""
    delta, noise = draw.choice(DELTAS), {"kind": "gaussian", "noise_multiplier": draw.choice(SIGMAS)}
    once = {"kind": "poisson-sampled", "sampling_probability": draw.choice(PROBABILITIES), "event": noise}
    event = draw.choice([noise, once, {"kind": "self-composed", "count": draw.choice([1, 2, 1000]), "event": once}])
    asked = next((entry["asked"] for entry in entries if isinstance(entry, dict) and entry.get("asked")), None)
    if not isinstance(asked, dict):  # altered before
        return entries
    charge = {"event": event, "accountant": ACCOUNTANT, "delta": delta, "epsilon_pld": draw.choice([None, 0])}
    try:
        vector = rdp_vector(decode_event(event))
    except CloisterError:
        vector = rdp_vector(decode_event(noise))
    charge |= {"rdp": list(vector), "epsilon": rdp_epsilon(vector, delta)}
    asked["charge"] = charge
    return entries


WITNESS, WITNESS_NAME = Ed25519PrivateKey.from_private_bytes(bytes(range(32))), "cloister/heart/silo/hospital-b"


def cosigned_at(note: str, seconds: int, more: bytes = b"") -> Cosignature:
    """What is read of a witness' line that it signed with this time in it, and with `more` behind the signature."""
    key = WITNESS.public_key().public_bytes_raw()
    signature = WITNESS.sign(f"cosignature/v1\ntime {seconds}\n{parse_note(note).text}".encode())
    blob = cosigner_id(WITNESS_NAME, key) + seconds.to_bytes(8, "big") + signature + more
    (found,) = cosignatures(with_lines(note, [signature_line(WITNESS_NAME, blob)]), {WITNESS_NAME: key})
    assert (found.witness, found.utc.timestamp(), more) == (WITNESS_NAME, seconds, b"")
    return found
