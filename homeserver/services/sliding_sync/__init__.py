"""Simplified sliding sync (MSC4186): lists and subscriptions of rooms over stateful connections."""
