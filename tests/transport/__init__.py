"""tests.transport."""
