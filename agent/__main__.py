"""``python -m agent`` is ``outhaul-agent``."""

from agent import main

if __name__ == "__main__":
    main()
