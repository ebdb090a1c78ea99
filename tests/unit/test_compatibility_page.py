"""docs/reference/compatibility.md is what the preflight says."""

import pytest

from tests.compatibility import ENDINGS, FAMILIES, METHODS, PAGE, attempt, page


@pytest.mark.slow
def test_the_page_is_what_the_preflight_says():
    assert page() == PAGE.read_text(encoding="utf-8"), "run `python -m tests.compatibility`"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_page_s_lines_for_two_methods_are_what_the_preflight_says(family):
    """The same for a few cells of each table: what the page says of this family."""
    titles = ("Sequence classification", "Token classification", "Causal language modelling")
    for task, title in zip(ENDINGS, titles, strict=True):
        lines = PAGE.read_text(encoding="utf-8").split(f"## {title}")[1].split("## ")[0].splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        if family.name not in cells[0]:
            continue
        column = cells[0].index(family.name)
        for method in ("`ffa-lora`", "`prompt`"):
            said = next(row[column] for row in cells if row[0] == method)
            assert (said == "yes") == (attempt(method, family, task) is None), (task, method)
    assert attempt("the whole model", family, "sequence-classification") is not None
    assert len(METHODS) > 10
