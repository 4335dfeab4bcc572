"""appservices."""
