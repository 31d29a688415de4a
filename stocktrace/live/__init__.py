"""A capture while it runs: its threads, who steers it, who looks at it."""
