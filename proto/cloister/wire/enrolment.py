"""What a newcomer and the enrolment port say to each other (enrolment.proto)."""

from typing import Annotated

from pydantic import Field

from cloister.v1 import enrolment_pb2
from cloister.wire.base import (
    Pem,
    WireMessage,
)


class EnrolRequest(WireMessage):
    """A token's secret and two certificate requests."""

    proto = enrolment_pb2.EnrolRequest
    secret: Annotated[bytes, Field(min_length=32, max_length=32, repr=False)]
    tls_csr_pem: Pem
    identity_csr_pem: Pem


class EnrolledCertificates(WireMessage):
    """The two certificates of a party; the aggregator's identity certificate, which it pins, and address to dial."""

    proto = enrolment_pb2.EnrolResponse
    tls_certificate_pem: Pem
    identity_certificate_pem: Pem
    aggregator_identity_pem: Pem
    aggregator_address: Annotated[str, Field(min_length=3, max_length=300)]
