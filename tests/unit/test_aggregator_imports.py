"""What the aggregator cannot import it cannot do."""

import subprocess
import sys

FORBIDDEN = (
    "torch", "opacus", "peft", "transformers", "tenseal", "privacy.dp", "privacy.mail",
    "privacy.ckks.group", "privacy.ckks.multikey", "privacy.ckks.sampling", "privacy.ckks.shares",
)  # fmt: skip
PROGRAM = f"""
import pkgutil, sys
import aggregator
names = [found.name for found in pkgutil.walk_packages(aggregator.__path__, "aggregator.")]
for name in names:
    if "versions" not in name:
        __import__(name)
assert "aggregator.runner" in sys.modules and "aggregator.cli" in sys.modules and "aggregator.service" in sys.modules
found = [name for name in {FORBIDDEN!r} if name in sys.modules]
assert not found, found
"""


def test_importing_all_of_it_reaches_nothing_that_opens_or_trains() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
