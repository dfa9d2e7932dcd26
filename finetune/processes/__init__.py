"""The processes of a job: signals, streams, threads, and what they tell each other; torch-free."""
