"""One look at each image: size, hashes, codes, and figures of its quality."""
