"""The report of a session for people: one HTML page, and a picture."""
