"""The broker: the cloud's end of every link."""

from typing import Final

RELEASE: Final = "0.1.0"
