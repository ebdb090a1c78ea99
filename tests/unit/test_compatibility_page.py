"""docs/reference/compatibility.md is what the preflight says."""

import pytest

from tests.compatibility import FAMILIES, METHODS, PAGE, attempt, page

TASK = "sequence-classification"


def test_the_page_is_what_the_preflight_says():
    assert page() == PAGE.read_text(encoding="utf-8"), "run `python -m tests.compatibility`"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_default_method_trains_on_every_family(family):
    assert attempt("`ffa-lora`", family, TASK) is None
    assert attempt("the whole model", family, TASK) is not None
    assert len(METHODS) > 10
