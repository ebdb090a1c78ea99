"""What a round's transcript proves, and what it does not: facts for `cloister round verify`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from certs.identity import fingerprint
from privacy.ckks.layouts import UpdateLayout, layout_of
from privacy.errors import ConfigError, ProtocolError, VerificationError
from privacy.record import RecordVerdict, RoundRecord, check_record, check_sum


def check(transcript: Path, sum_file: Path | None) -> dict[str, Any]:
    """Verify a transcript file, and the sum if it is at hand.

    Raises ConfigError for files that cannot be read, VerificationError naming the first thing that is wrong.
    """
    data = _read(transcript)
    try:
        verdict = check_record(RoundRecord.decode(data))
        if sum_file is not None:
            check_sum(verdict, _chunks(sum_file, layout_of(verdict.plan)))
    except ProtocolError as error:  # nobody is talking to us: it is evidence that does not hold
        raise VerificationError(error.what, error.why, error.next_step) from error
    return _facts(verdict, sum_checked=sum_file is not None)


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """The facts, for people."""
    yield f"job        {facts['name']} ({facts['job']})"
    yield f"round      {facts['round']}, commit {facts['attempt']}, suite {facts['suite']}"
    yield f"sum        of {', '.join(facts['members'])}, of {len(facts['participants'])} participants"
    yield f"consents   {', '.join(facts['consents'])} ({facts['consents_needed']} were needed)"
    if facts["releases_needed"]:
        said = f"{len(facts['released'])} sums released, of the {facts['releases_needed']} that open the sum"
        yield f"shares     {said}: {', '.join(facts['released']) or 'nobody'}"
    yield f"adapter    {facts['adapter'] or 'no silo had reported it when the transcript was written'}"
    if facts["sum_checked"]:
        yield "verified   signatures, members, fingerprints, certificate; the sum is that of its members' updates"
    else:
        yield "verified   signatures, members, certificate, digests; not the sum itself, for it is not at hand (--sum)"
    yield "signed by  keys of the plan's roster; compare them with what the institutions told you:"
    for name, pinned in facts["identities"].items():
        yield f"  {name:<20} {pinned}"


def _facts(verdict: RecordVerdict, *, sum_checked: bool) -> dict[str, Any]:
    plan, commit = verdict.plan, verdict.transcript.commit
    participants = verdict.participants
    keys = plan.identity_keys | {plan.aggregator.name: bytes.fromhex(plan.aggregator.identity_key)}
    return {
        "job": plan.digest().hex(),
        "name": plan.name,
        "suite": plan.suite.value,
        "round": commit.commit.round,
        "attempt": commit.commit.attempt,
        "participants": list(participants),
        "members": list(commit.members),
        "consents": [consent.silo for consent in verdict.consents],
        "consents_needed": plan.threshold(len(participants)),
        "released": list(verdict.released),
        "releases_needed": plan.threshold(len(participants)) if plan.suite.keyed else 0,
        "adapter": next(iter(verdict.adapters.values()), None),
        "transcript_sha256": verdict.transcript.digest.hex(),
        "sum_checked": sum_checked,
        "identities": {name: fingerprint(key) for name, key in keys.items()},
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"file {path}", error.strerror or "cannot be read", "Name a transcript.") from error


def _chunks(path: Path, layout: UpdateLayout) -> Iterator[bytes]:
    """The chunks that the file is made of; what is missing or too much is in the last one."""
    try:
        with path.open("rb") as file:
            for index in range(layout.chunks - 1):
                yield file.read(layout.chunk_bytes(index))
            yield file.read()
    except OSError as error:
        raise ConfigError(f"file {path}", error.strerror or "cannot be read", "Name the sum's file.") from error
