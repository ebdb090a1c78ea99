"""TLS certificates last 30 days: where the CA is online, the aggregator renews its own and the coordinator's."""

from datetime import datetime

import structlog

from aggregator.config import StateFolder
from certs.ca import CertificateAuthority
from certs.wallet import Wallet
from privacy.errors import CloisterError

LOG = structlog.get_logger("aggregator")


def renew_own(state: StateFolder, now: datetime) -> None:
    """Renew what has lived two thirds of its life. Without the CA's key here, its keeper does it (`certs renew`).

    A renewal that fails is logged, and tried again the next time; the old certificate stands.
    """
    if not (state.ca / "ca.key").exists():
        return
    for folder in (state.wallet, state.coordinator):
        wallet = Wallet(folder)
        try:
            if wallet.enrolled and wallet.renewal_due(now):
                authority = CertificateAuthority.load(state.ca)
                wallet.install_renewal(authority.renew(wallet.party, wallet.renewal_request(), now), now)
                LOG.info("certificate renewed", party=wallet.party.uri)
        except CloisterError as error:
            LOG.warning("certificate not renewed", folder=str(folder), exc_info=error)
