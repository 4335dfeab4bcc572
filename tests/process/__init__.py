"""The server as a real process: what happens when it dies."""
