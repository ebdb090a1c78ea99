"""A whole federation on one machine (demo, benchmarks) and the root of the `cloister` command."""
