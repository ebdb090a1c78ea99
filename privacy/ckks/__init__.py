"""CKKS: parameters, the layout an aggregator may touch, and the suites that seal and open."""
