"""How the programs get onto the machines of those who run them; the installers come with a later release."""
