"""From a read of the socket to published Parquet, live or from the tape again."""
