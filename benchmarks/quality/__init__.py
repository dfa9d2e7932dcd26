"""Parts of benchmarks/base_quality.py, one module per subject."""
