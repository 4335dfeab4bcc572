"""tests.agent_bridge."""
