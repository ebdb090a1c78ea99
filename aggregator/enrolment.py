"""The enrolment port's only service, and the desk behind it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc
import structlog
from cloister.v1 import enrolment_pb2_grpc
from cloister.wire import EnrolledCertificates, EnrolRequest

from aggregator.store import MemberRow, Store
from aggregator.tables import WITNESS
from certs.enrolment import EnrolmentDesk
from certs.names import PartyId
from certs.requests import CertificateRequests
from certs.verify import check_identity_certificate
from privacy.ledger.cosignature import witness_name
from runtime.witness_store import WitnessBook

LOG = structlog.get_logger("aggregator")


class EnrolmentService(enrolment_pb2_grpc.EnrolmentServiceServicer):
    """Admits whoever brings a good token, and puts the new party on the list of members."""

    def __init__(
        self,
        desk: EnrolmentDesk,
        store: Store,
        *,
        ca_pem: bytes,
        own_identity_pem: bytes,
        address: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._desk = desk
        self._store = store
        self._ca_pem = ca_pem
        self._own_identity_pem = own_identity_pem
        self._address = address
        self._clock = clock

    def Enrol(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802, ANN401, ARG002 - grpc's names
        """Certificates for a secret that is good once."""
        asked, now = EnrolRequest.decode(request), self._clock()
        requests = CertificateRequests(asked.tls_csr_pem, asked.identity_csr_pem)
        issued = self._desk.redeem(asked.secret, requests, now)
        party = enter_member(self._store, issued.identity, self._ca_pem, now)
        LOG.info("party enrolled", party=party.uri)
        return EnrolledCertificates(
            tls_certificate_pem=issued.tls,
            identity_certificate_pem=issued.identity,
            aggregator_identity_pem=self._own_identity_pem,
            aggregator_address=self._address,
        ).encode()


def enter_member(store: Store, identity_pem: bytes, ca_pem: bytes, now: datetime) -> PartyId:
    """Put the party that an identity certificate names on the list of members, with its key.

    With another key than before it is asked to cosign anew; its own ledger goes on, and what was seen of that stays.
    """
    party, key = check_identity_certificate(identity_pem, ca_pem, now)
    with store.transaction() as tx:
        if tx.put_member(MemberRow(party.role, party.name, key, identity_pem), now):
            witness = witness_name(party.federation, party.role, party.name)
            WitnessBook(tx.connection, WITNESS).put_key(witness, identity_pem)
    return party
