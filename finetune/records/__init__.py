"""Records of generated images: one searchable SQLite file beside the run folders."""
