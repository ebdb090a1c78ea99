"""What people sign: texts that show as what they are, each with their own key."""

import pytest
from pydantic import ValidationError

from privacy.canonical import canonical_json
from privacy.errors import ProtocolError, Refused
from privacy.ledger.codec import decode_entry, encode_entry
from privacy.two_person import Approval, BudgetChange, ChangeStatement, Proposal, SubCapChange
from tests.ledger_logs import ORIGIN, PEOPLE, PURPOSE, sub_cap_entry

CHANGE = BudgetChange(population="cardiology", epsilon_before=2.0, epsilon=3.0)
SIGNERS = {person: PEOPLE[person].public_key().public_bytes_raw().hex() for person in ("dr-weber", "ms-okoro")}
UNPRINTABLE = {
    "a cursor that goes up": "x\x1b[1A\x1b[2Kcardiology: lifetime epsilon from 2 to 2.1",
    "a carriage return": "x\rcardiology",
    "a line break": "x\ncardiology",
    "a control character of eight bits": "x\x9b1A",
    "right to left": "x\u202e1.2 ot 2 morf",
    "nothing at all": "x\u200b",
    "a line separator": "x\u2028",
}


def proposal(**changes: object) -> Proposal:
    facts = {"log": ORIGIN, "key": "0c" * 32, "number": 3, "change": CHANGE, "reason": "a second study"}
    facts["expires"] = "2026-03-31T09:00:00Z"
    return Proposal(statement=ChangeStatement(**(facts | changes)), signers=SIGNERS)


@pytest.mark.parametrize("text", UNPRINTABLE.values(), ids=UNPRINTABLE)
def test_what_does_not_show_as_itself_is_not_signed_nor_put_on_record(text: str) -> None:
    for field in ("reason", "log"):
        with pytest.raises(ValidationError, match="does not show as itself"):
            proposal(**{field: text})
        value = proposal().model_dump(mode="json")
        value["statement"][field] = text
        with pytest.raises(ProtocolError, match=f"statement.{field}: has a character that does not show as itself"):
            Proposal.decode(canonical_json(value))
    with pytest.raises(ValidationError, match="does not show as itself"):
        SubCapChange(population="cardiology", purpose=text, epsilon_before=None, epsilon=1.0)
    for field in ("reason", "purpose"):
        entry = sub_cap_entry(3, PURPOSE, None, 1.0).model_copy(update={field: text})
        with pytest.raises(ProtocolError, match="does not show as itself"):
            decode_entry(encode_entry(entry))


def test_letters_of_all_scripts_show_as_themselves() -> None:
    made = proposal(reason="für die Straße, 第二の研究, دراسة ثانية, ε = 3")
    assert Proposal.decode(made.encode()) == made


def test_a_proposal_takes_a_signature_by_the_key_of_that_person_alone() -> None:
    made = proposal()
    with pytest.raises(Refused, match=r"'dr-webber' is none of those who may sign it: dr-weber, ms-okoro"):
        made.signed("dr-webber", PEOPLE["dr-weber"].sign)
    for person, key in (("dr-weber", "ms-okoro"), ("ms-okoro", "mr-diaz")):
        with pytest.raises(Refused, match=f"not by the key that is on record for {person}"):
            made.signed(person, PEOPLE[key].sign)
        with pytest.raises(Refused, match=f"not the key that is on record for {person}"):
            made.check_key(person, PEOPLE[key].public_key().public_bytes_raw())
    with pytest.raises(Refused, match="who may sign it: nobody"):
        made.model_copy(update={"signers": {}}).key_of("dr-weber")


def test_a_newer_signature_takes_the_place_of_an_older_one() -> None:
    spoilt = Approval(person="dr-weber", signature="00" * 64)
    made = proposal().signed("ms-okoro", PEOPLE["ms-okoro"].sign)
    made = made.model_copy(update={"approvals": (spoilt, *made.approvals)}).signed("dr-weber", PEOPLE["dr-weber"].sign)
    assert [approval.person for approval in made.approvals] == ["ms-okoro", "dr-weber"]
    assert spoilt not in made.approvals
