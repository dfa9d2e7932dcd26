"""Parts of benchmarks/methods.py, one module per subject."""
