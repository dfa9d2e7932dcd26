"""The prepared dataset, written so that a killed run can complete it."""
