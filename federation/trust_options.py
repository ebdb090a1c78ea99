"""What a command's user trusts, as options, and whether they are right: told before anything heavy is imported."""

import re
from pathlib import Path
from typing import Annotated

import typer

from privacy.errors import ConfigError
from runtime.console import require_file

Key = Annotated[
    str | None, typer.Option("--key", metavar="HEX", help="The institution's Ed25519 identity key, 64 hex digits.")
]
Ca = Annotated[
    Path | None, typer.Option("--ca", metavar="PEM", help="The federation's CA, to check the certificate inside.")
]
Quorum = Annotated[
    int, typer.Option("--quorum", min=0, help="So many witnesses must have cosigned the newest checkpoint; needs --ca.")
]


def require_trust(key: str | None, ca: Path | None, quorum: int = 0) -> None:
    """Exactly one of the two is given, and is of its form. Raises BadParameter, ConfigError."""
    if (key is None) == (ca is None):
        raise typer.BadParameter("give either --key or --ca", param_hint="--key / --ca")
    if key is not None and not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ConfigError("--key", "is not 64 hex digits", "`cloister certs show --json` prints it: identity_key.")
    if quorum and ca is None:
        raise ConfigError("--quorum", "needs --ca: nobody vouches for witnesses' keys", "Give the federation's ca.pem.")
    if ca is not None:
        require_file(ca)
