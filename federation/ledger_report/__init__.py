"""`cloister ledger report`: what a verified ledger says, as one page for a privacy officer and as registry objects."""
