"""Where the frozen program begins."""

from agent import main

main()
