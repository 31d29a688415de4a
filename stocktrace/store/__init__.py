"""The disk: names, tapes, segments, schema, Parquet; nothing of the socket."""
