"""Who the agents are, and by whose word: the authority, tokens, certificates and their succession."""
