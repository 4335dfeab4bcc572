"""homeserver.storage."""
