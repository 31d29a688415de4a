"""The socket: Finnhub's messages, one connection that mends itself, and nothing of the disk."""
