"""Gaps of past sessions, and what REST has of them."""
