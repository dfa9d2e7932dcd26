"""The steps of a run, in one module each."""
