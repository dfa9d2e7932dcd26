"""report.html of a preparation."""
