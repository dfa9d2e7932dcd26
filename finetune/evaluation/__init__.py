"""What a run is judged by: the report beside it, scores, and the check for memorised pictures."""
