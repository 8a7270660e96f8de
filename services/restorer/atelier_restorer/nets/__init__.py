"""Networks that this stage runs, one file each, with the reader of its configuration beside the class."""
