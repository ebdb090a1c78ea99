"""A log goes on under another key: the old key and the new one both sign that it does, and from which entry on.

The statement names the log and how many entries it had, so that it is good for one change, at one place, once.
"""

from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from privacy.canonical import canonical_json
from privacy.errors import VerificationError
from privacy.fields import Hex32, Strict, Text


class KeyRotation(Strict):
    """What both keys sign: checkpoints of more than `size` entries are signed by `new_key` alone."""

    type: Literal["cloister/v1/key-rotation"] = "cloister/v1/key-rotation"
    log: Text
    size: Annotated[int, Field(ge=0, le=2**53 - 1)]
    old_key: Hex32  # raw Ed25519
    new_key: Hex32
    reason: Text

    def message(self) -> bytes:
        """The bytes that are signed: `type NUL body`, as for every statement."""
        return self.type.encode() + b"\x00" + canonical_json(self.model_dump(mode="json"))

    def check(self, old_signature: str, new_signature: str) -> None:
        """Both signed it. Raises VerificationError naming the key that did not."""
        for which, key, signature in (
            ("old", self.old_key, old_signature),
            ("new", self.new_key, new_signature),
        ):
            try:
                public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
                public.verify(bytes.fromhex(signature), self.message())
            except InvalidSignature as error:
                why = f"the {which} key, {key[:16]}, did not sign it"
                raise VerificationError(
                    "key rotation", why, "Ask the institution which keys its log has had."
                ) from error
