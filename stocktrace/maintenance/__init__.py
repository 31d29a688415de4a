"""What is done to a data folder afterwards: convert, compact, requeue, let go."""
