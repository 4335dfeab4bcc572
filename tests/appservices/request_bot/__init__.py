"""Tests of appservices.request_bot."""
