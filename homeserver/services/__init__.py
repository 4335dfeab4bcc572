"""homeserver.services."""
