"""Tables of other trainers' options, one file each; torch-free."""
