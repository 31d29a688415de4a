"""Backups of a data folder: made while captures run, checked by hash, restored."""
