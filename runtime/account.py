"""Who is at the keyboard."""

import getpass


def account() -> str:
    """The person's account on this machine, as text that a ledger takes."""
    try:
        found = getpass.getuser()
    except (KeyError, OSError):
        found = "unknown account"
    shown = found if found.isprintable() else ascii(found)
    return shown[:200]
