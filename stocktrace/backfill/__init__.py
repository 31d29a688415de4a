"""Backfill of gaps from Finnhub's REST, and reconciliation of whole days with it."""
