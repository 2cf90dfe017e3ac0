"""What a run stands on: the endpoints that it asks, its processes and its files."""
