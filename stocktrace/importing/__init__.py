"""What was recorded elsewhere becomes sessions of this data folder: other folders, CSV, merges."""
