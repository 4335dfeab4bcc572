"""Declarations of the client-server API; one class a feature."""
