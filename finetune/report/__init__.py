"""Reports as one HTML file; torch-free."""
