"""homeserver.transport."""
