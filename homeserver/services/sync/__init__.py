"""Sync: one file a stream of what a client is told, `service.py` puts them together."""
