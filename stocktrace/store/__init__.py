"""Files and their formats: tapes, segments, Parquet, coverage, the audit log, the lake."""
