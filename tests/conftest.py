"""For all tests: one thread a process, before torch is imported. Sums are then the same in every run, and two cores
are shared fairly by the programs that tests start."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
