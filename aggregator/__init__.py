"""The aggregator: adds sealed updates, fixes and signs the sum, keeps the schedule. It can open nothing."""
