"""``outhaul-agent check``: every part tried, in the order in which they need each other."""
