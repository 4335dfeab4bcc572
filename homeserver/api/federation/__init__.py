"""homeserver.api.federation."""
