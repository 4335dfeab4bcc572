"""Countersign's homeserver: a federated Matrix server. `server.py` is the best map of it."""

__version__ = "0.1.0"
