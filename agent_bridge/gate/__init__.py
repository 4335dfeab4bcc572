"""The agent gate: the process that freezes, verifies and runs approved actions."""
