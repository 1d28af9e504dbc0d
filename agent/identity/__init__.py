"""Who the agent is: certificate and keys, how it got them and how it gets the next ones."""
