"""`cloister ledger review`: an auditor signs what an examination of a bundle found, for the institution's ledger."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from privacy.errors import ConfigError
from runtime.console import emit, refuse_existing, require_file
from runtime.options import text_on_record
from silo_agent.command import now

if TYPE_CHECKING:
    from privacy.review import Review

DAY = "%Y-%m-%d"
MOST_ENTRIES = 2**53 - 1


def review(  # noqa: PLR0913 - options of a command
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What was examined; it is verified first.")],
    *,
    wallet: Annotated[
        Path, typer.Option("--wallet", metavar="FOLDER", help="Your keys: `cloister certs issue auditor NAME`.")
    ],
    subject: Annotated[
        str,
        typer.Option(
            "--subject", callback=text_on_record, help="What you looked at, for instance 'first quarter 2027'."
        ),
    ],
    finding: Annotated[
        Literal["in-order", "observation", "deficiency"], typer.Option("--finding", help="What it comes to.")
    ],
    remark: Annotated[
        str, typer.Option("--remark", callback=text_on_record, help="What you found, in a sentence or two.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The signed review, a new file.")],
    follow_up: Annotated[
        str | None, typer.Option("--follow-up", callback=text_on_record, help="What the institution is to do.")
    ] = None,
    due: Annotated[datetime | None, typer.Option("--due", formats=[DAY], help="Until when.")] = None,
    closes: Annotated[
        int | None, typer.Option("--closes", metavar="ENTRY", help="The review whose follow-up is done.")
    ] = None,
    first: Annotated[int, typer.Option("--first", min=0, help="The first entry that you examined.")] = 0,
    last: Annotated[int | None, typer.Option("--last", min=0, help="The last one; else the bundle's last.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Sign a review of a bundle. Its institution puts it on record: `cloister silo|aggregator reviews add FILE`.

    Whose log it is, the CA in your wallet vouches for. A deficiency takes a follow-up and a day by which it is due.
    """
    require_file(bundle)
    refuse_existing(out)
    from certs.names import Role
    from certs.wallet import Wallet
    from runtime.files import write_durably

    identity = Wallet(wallet).signer(now(), Role.AUDITOR)
    facts: dict[str, Any] = {"party": identity.party.uri, "public_key": identity.public_key.hex(), "subject": subject}
    facts |= {"remark": remark, "finding": finding, "follow_up": follow_up}
    facts |= {"due": None if due is None else due.strftime(DAY), "closes": closes, "first_sequence": first}
    some: dict[str, Any] = {"log": "any", "log_size": MOST_ENTRIES, "log_root": "00" * 32}
    _review(facts | some | {"last_sequence": first if last is None else last})  # what is wrong with it in any log
    from federation.verification import verified_file
    from privacy.review import SignedReview

    report = verified_file(bundle, wallet / "ca.pem")
    facts |= {"log": report.origin, "log_size": report.entries, "log_root": report.root.hex()}
    said = _review(facts | {"last_sequence": report.entries - 1 if last is None else last})
    signed = SignedReview.make(said, identity.certificate_pem.decode(), identity.sign)
    write_durably(out, signed.encode(), 0o644)
    text = (
        f"review of {said.log}, entries {said.first_sequence} to {said.last_sequence}: {said.finding}; signed in {out}"
    )
    emit({"file": str(out), **said.model_dump()}, as_json=json, text=text)


def _review(facts: dict[str, Any]) -> "Review":
    """Raises ConfigError naming what is wrong."""
    from pydantic import ValidationError

    from privacy.fields import first_complaint
    from privacy.review import Review

    try:
        return Review.model_validate(facts)
    except ValidationError as error:
        raise ConfigError("review", first_complaint(error), "Correct the options.") from error
