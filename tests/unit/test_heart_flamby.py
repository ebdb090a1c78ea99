"""FLamby's stated and spent epsilons: what the page says is what the accountant says."""

from pathlib import Path

from federation.heart.flamby import NOMINAL, spent

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "heart-benchmark.md").read_text(encoding="utf-8")


def test_the_page_has_what_is_computed() -> None:
    rows = zip(*(spent(nominal) for nominal in NOMINAL), strict=True)
    for one, five in rows:
        assert (
            f"| {one.hospital} | {one.steps_planned} | {one.steps_run} | {one.epsilon:.1f} | {five.epsilon:.1f} |"
            in PAGE
        )


def test_it_is_spent_more_than_is_stated_and_most_where_fewest_patients_are() -> None:
    found = {each.hospital: each.epsilon for each in spent(1.0)}
    assert all(epsilon > 1.4 for epsilon in found.values())
    assert max(found, key=lambda name: found[name]) == "switzerland"
    assert found["switzerland"] > 4
