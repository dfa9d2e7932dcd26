"""Caption files of a folder, and which caption training draws."""
