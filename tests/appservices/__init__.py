"""tests.appservices."""
