"""Which job a person means: its name first, then enough of its digest, and nothing that several answer to."""

import pytest

from privacy.errors import ConfigError
from runtime.naming import job_meant

JOBS = {
    "ab12" + "0" * 60: "coughs",
    "ab13" + "0" * 60: "hearts",
    "cd00" + "0" * 60: "hearts",
    "ef00" + "0" * 60: "ab12",
}


@pytest.mark.parametrize(
    ("text", "job"), [("coughs", "ab12"), ("ab13", "ab13"), ("CD000", "cd00"), ("ab12", "ef00"), ("ab120", "ab12")]
)
def test_one_job_is_meant(text, job):
    assert job_meant(text, JOBS).startswith(job)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hearts", "means 2 jobs: ab1300000000, cd0000000000"),
        ("ab1", "is no job here; there are: coughs"),
        ("", "is no job here"),
    ],
)
def test_none_or_several_are_refused(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        job_meant(text, JOBS)
    with pytest.raises(ConfigError, match="there are: none"):
        job_meant(text, {})
