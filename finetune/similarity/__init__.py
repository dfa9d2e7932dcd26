"""Which images show the same; torch-free."""
