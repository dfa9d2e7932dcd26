"""Images in shards of remote storage, indexed once and read by ranges."""
