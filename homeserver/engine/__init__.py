"""homeserver.engine."""
