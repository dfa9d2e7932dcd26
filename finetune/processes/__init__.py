"""Signals, streams, threads and ranks of a job's processes; torch-free."""
