"""Folders, tables, archives and datasets as one list of files."""
