"""Who calls the HTTP API, what they may, and how much of it."""
