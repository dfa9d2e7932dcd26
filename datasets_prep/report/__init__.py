"""The report of a preparation, report.html."""
