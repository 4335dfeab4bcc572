"""The server-server API: declarations only."""
