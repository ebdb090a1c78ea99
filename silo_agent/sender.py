"""Sending what was stored: statements, the sealed update, a release."""

import time
from collections.abc import Callable

import structlog
from cloister import wire

from privacy.errors import InternalError, ProtocolError
from privacy.keyed import Release
from privacy.statement import Signed, read
from silo_agent.client import UpdateParts
from silo_agent.round_events import (
    Action,
    Event,
    FingerprintAccepted,
    ReportAccepted,
    SendApplied,
    SendConsent,
    SendFingerprint,
    SendJoin,
    SendRelease,
    SendWithdrawal,
    UpdateAccepted,
    UpdateRejected,
)
from silo_agent.round_tools import RoundTools
from silo_agent.statements import mark_delivered
from silo_agent.status import Timing

LOG = structlog.get_logger("silo.round")


class Sender:
    """Sends what the rounds of one job have to say."""

    def __init__(self, tools: RoundTools) -> None:
        self._tools = tools
        self._port_for: dict[type[Action], Callable[[Signed], None]] = {
            SendJoin: tools.port.join_round,
            SendWithdrawal: tools.port.withdraw_round,
            SendFingerprint: tools.port.send_fingerprint,
            SendConsent: tools.port.consent_round,
            SendRelease: self._send_release,
            SendApplied: tools.port.report_applied,
        }

    def send(self, number: int, action: Action) -> Event | None:
        """Send a stored statement.

        One whose time is over is done with: the round's phase says what follows. A refusal that is not about the
        statement (certificate, role, version) is raised, and it is sent again.
        """
        name, taken = self._tools.log.sent_by(action), True
        signed = None if name is None else self._tools.log.said(number, name)
        if name is not None and signed is not None:
            taken = self._deliver(number, action, name, signed)
        if isinstance(action, SendApplied):
            return ReportAccepted()
        return FingerprintAccepted() if isinstance(action, SendFingerprint) and taken else None

    def _deliver(self, number: int, action: Action, name: str, signed: Signed) -> bool:
        """Whether the aggregator took it; either way it is not sent again."""
        taken = True
        try:
            self._port_for[type(action)](signed)
        except ProtocolError as error:
            taken = False
            LOG.warning("the aggregator did not take it", round=number, action=type(action).__name__, exc_info=error)
        with self._tools.home.store.writing() as tx:
            mark_delivered(tx.connection, self._tools.member.job, number, name)
        return taken

    def send_update(self, number: int, timing: Timing) -> Event:
        """Send the sealed update, the stored bytes."""
        header = self._tools.log.header(number)
        if header is None:
            return UpdateRejected("its header is missing from silo.db")
        layout, job, started = self._tools.work.layout, self._tools.member.job, time.monotonic()
        try:
            self._tools.port.submit_update(header, lambda: self._stored_parts(number))
        except ProtocolError as error:
            if header in self._tools.port.get_round(job, number).headers:
                return UpdateAccepted()  # an earlier try had been taken when this one came too late
            LOG.warning("the update was not taken", round=number, exc_info=error)
            return UpdateRejected(f"{error.what}: {error.why}")
        timing.submit_s = time.monotonic() - started
        self._tools.board.add_sent(layout.upload_bytes + len(header.body) + len(header.signature))
        return UpdateAccepted()

    def _stored_parts(self, number: int) -> UpdateParts:
        outbox, job = self._tools.home.outbox, self._tools.member.job
        for part in outbox.attachment(job, number):
            yield wire.UpdatePart(seeds=part) if self._tools.keyed is None else wire.UpdatePart(mails=part)
        for chunk in outbox.residues(job, number, self._tools.work.layout):
            yield wire.UpdatePart(residues=chunk)

    def _send_release(self, release: Signed) -> None:
        if self._tools.keyed is None:
            raise InternalError("release", "is of a suite without", "Report this; nothing was sent.")
        body, mails = self._tools.keyed.released(read(release, Release).round)
        self._tools.port.send_release(release, body, mails)
