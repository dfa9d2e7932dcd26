"""YAML files and command lines to configs, and back; torch-free."""
