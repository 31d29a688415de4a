"""What is known of a session: its report, its status, its state."""
