"""Tests of appservices.kit."""
