"""The local systems an agent can reach, by the `type` of their connection."""

from __future__ import annotations

from typing import Final

# Text, so that a site without ODBC drivers never imports pyodbc.
CONNECTORS: Final[dict[str, str]] = {
    "file": "agent.connectors.file.driver:FileDriver",
    "odbc": "agent.connectors.odbc.driver:OdbcDriver",
    "soap": "agent.connectors.soap.driver:SoapDriver",
}
