"""tests.clients."""
