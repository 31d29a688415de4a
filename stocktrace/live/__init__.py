"""A capture while it runs: its threads, its control, its metrics and health."""
