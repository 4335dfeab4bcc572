"""Declarations of the admin API; one class a feature."""
