"""Upkeep of a data folder: compaction, conversion, requeue and retention."""
