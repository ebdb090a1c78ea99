"""What people sign: texts that show as what they are."""

import pytest
from pydantic import ValidationError

from privacy.canonical import canonical_json
from privacy.errors import ProtocolError
from privacy.ledger.codec import decode_entry, encode_entry
from privacy.two_person import BudgetChange, ChangeStatement, Proposal, SubCapChange
from tests.ledger_logs import ORIGIN, PURPOSE, sub_cap_entry

CHANGE = BudgetChange(population="cardiology", epsilon_before=2.0, epsilon=3.0)
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
    facts = {"log": ORIGIN, "number": 3, "change": CHANGE, "reason": "a second study"}
    return Proposal(statement=ChangeStatement(**(facts | changes)))


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
