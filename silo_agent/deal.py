"""The cohort's key of one job: made and mailed by the dealer, checked and kept by everybody else, once a job.

Order (protocol.md, "The job"): the key is in the vault before anything is said or accepted about it.
"""

import hashlib
import json

from privacy.ckks.group import GroupKey
from privacy.errors import ProtocolError
from privacy.mail import MailKey, seal_mail
from privacy.plan import JobPlan
from privacy.roll import KeyDeal, MailDigest, Roll, check_deal
from privacy.statement import Signed
from silo_agent.vault import Secret, Vault


def prepare_deal(plan: JobPlan, roll: Roll, silo: str, vault: Vault) -> KeyDeal:
    """The dealer's statement, not yet signed; key and mails are in the vault when this returns.

    For a silo that signed no deal for this job: what an interrupted attempt left is replaced.
    """
    job = plan.digest()
    key = GroupKey.generate()
    vault.put(job, Secret.COHORT_KEY, key.to_bytes(), replace=True)
    vault.put(job, Secret.DEALT_MAILS, _seal_mails(key, roll, silo), replace=True)
    mails = dealt_mails(job, vault)
    return KeyDeal(
        plan=job.hex(),
        silo=silo,
        roll=roll.digest.hex(),
        key_commitment=key.commitment(roll.digest).hex(),
        mails=tuple(MailDigest(to=to, sha256=hashlib.sha256(mails[to]).hexdigest()) for to in sorted(mails)),
    )


def dealt_mails(job: bytes, vault: Vault) -> dict[str, bytes]:
    """The mails of this silo's own deal, by receiver."""
    stored = json.loads(vault.get(job, Secret.DEALT_MAILS))
    return {to: bytes.fromhex(sealed) for to, sealed in stored.items()}


def take_deal(plan: JobPlan, roll: Roll, deal: Signed, mail: bytes, silo: str, vault: Vault) -> KeyDeal:
    """Check a deal and this silo's mail; the cohort's key is in the vault when this returns.

    Raises ProtocolError, naming the dealer, when the deal, the mail or the key in it is not what was signed.
    """
    job = plan.digest()
    statement = check_deal(plan, roll, deal, {silo: mail})
    mail_key = MailKey(vault.get(job, Secret.MAIL_KEY))
    data = mail_key.open(mail, binding=roll.digest, sender=statement.silo, receiver=silo)
    key = GroupKey.from_bytes(data)
    if key.commitment(roll.digest).hex() != statement.key_commitment:
        raise ProtocolError(
            "key deal",
            f"{statement.silo} mailed this silo another key than the one it signed",
            "The key was not taken; the job cannot go on with this deal.",
            sender=statement.silo,
            step="deal",
        )
    vault.put(job, Secret.COHORT_KEY, data)
    return statement


def _seal_mails(key: GroupKey, roll: Roll, silo: str) -> bytes:
    sealed = {
        to: seal_mail(key.to_bytes(), public, binding=roll.digest, sender=silo, receiver=to).hex()
        for to, public in roll.mail_keys.items()
        if to != silo
    }
    return json.dumps(sealed, sort_keys=True).encode()
