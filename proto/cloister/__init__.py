"""The wire: protobuf definitions, generated stubs, and the strict decoding in `wire/`."""
