"""What this server does with others: `requests.py` asks, the rest answers or follows."""
