"""Work on many files in other processes, or on a Ray cluster."""
