"""Several servers in one process, each with a database of its own."""
