"""The agent's installer for Windows."""
