"""A local page to review a prepared dataset."""
