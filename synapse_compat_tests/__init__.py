"""Black-box tests: our server and a real Synapse, driven as users drive them."""
