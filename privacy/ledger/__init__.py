"""The tamper-evident privacy ledger: entries, Merkle tree, checkpoints, offline verification."""
