"""Generated from the .proto files beside this one by `make proto`. Imported by `cloister.wire` and the RPC shells only."""
