"""The socket: Finnhub's messages, one connection that reconnects by itself, and no files."""
