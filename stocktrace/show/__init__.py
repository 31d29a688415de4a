"""A session for people: its report as one HTML page, its picture."""
