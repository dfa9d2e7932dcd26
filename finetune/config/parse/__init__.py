"""From a YAML file and the command line to a config, and back; torch-free."""
