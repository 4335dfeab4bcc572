"""homeserver.api."""
