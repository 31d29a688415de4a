"""The version of stocktrace."""

__version__ = "0.1.0"
