"""Image files of every format, decoded to sRGB; torch-free."""
