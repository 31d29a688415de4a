"""The sessions of a data folder: their reports, statuses and states."""
