"""Read what was recorded: trades, bars, coverage. The public API."""
