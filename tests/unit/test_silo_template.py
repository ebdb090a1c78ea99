import pytest

from privacy.errors import ConfigError
from silo_agent.template import as_text, parse_template


def test_fills_columns_and_keeps_braces():
    template = parse_template("{age} year old {sex} {{x}} {age}")
    assert template.columns == ("age", "sex", "age")
    assert template.fill({"age": "63", "sex": "man"}) == "63 year old man {x} 63"


def test_a_column_name_may_have_spaces_and_dashes():
    assert parse_template("{blood pressure} {st-depression}").columns == ("blood pressure", "st-depression")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{age.__class__}", "{age.__class__} is not the plain name"),
        ("{age[0]}", "not the plain name"),
        ("{age!r}", "format or a conversion"),
        ("{age:>10}", "format or a conversion"),
        ("{age:{width}}", "format or a conversion"),
        ("{}", "not the plain name"),
        ("{0}", "not the plain name"),
        ("{ age }", "not the plain name"),
        ("{age", "expected '}'"),
        ("age}", "single '}'"),
        ("no column", "names no column"),
    ],
)
def test_refuses_all_but_plain_names(template, why):
    with pytest.raises(ConfigError) as caught:
        parse_template(template)
    assert why in str(caught.value)
    assert "Write {column}" in caught.value.next_step


@pytest.mark.parametrize(
    ("value", "text"),
    [("63.0", "63"), ("2.50", "2.5"), ("-0.5", "-0.5"), (63.0, "63"), (2.3, "2.3"), (7, "7"), ("007", "007"),
     (" x ", "x"), (True, "true"), ("1.2.0", "1.2.0"), ("100", "100")],
)  # fmt: skip
def test_numbers_are_written_in_their_shortest_form(value, text):
    assert as_text(value) == text
