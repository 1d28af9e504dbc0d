"""A newer release in the place of this one: verified, tried, watched, and taken back if it doesn't come up."""
