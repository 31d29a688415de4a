"""Imports of other data folders and third-party CSV files, and merges of recorders."""
