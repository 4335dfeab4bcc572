"""homeserver.core."""
