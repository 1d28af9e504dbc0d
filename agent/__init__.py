"""The agent: the ERP's end of the link."""

from typing import Final

RELEASE: Final = "0.1.0"
