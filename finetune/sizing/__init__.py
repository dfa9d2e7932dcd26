"""Memory, disk and time of a run, computed before it. Models are on torch's meta device."""
