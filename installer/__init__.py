"""How the agent gets onto the machines of those who run it: frozen into one folder that needs no Python there."""
