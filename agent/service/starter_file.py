"""The operator's file of an agent that has none yet: its name, its folder, and nothing that can be run."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Final

from agent import config_file
from agent.errors import ConfigError

STATE: Final = "state"  # beside the file

_TEXT: Final = """\
# What this agent may do, and nothing else. The keys: outhaul-agent config schema
# After a change: outhaul-agent check, then outhaul-agent service stop and start.
agent     = {agent}
state_dir = {state}

# [connections.erp]
# type = "odbc"
# connection_string = "DSN=erp;Uid=outhaul;Pwd={{secret:erp-password}}"
#
# [operations.open-invoices]
# connection = "erp"
# description = "Unpaid invoices of a customer."
# sql    = "SELECT * FROM open_invoices(:customer)"
# effect = "read"
# [operations.open-invoices.params]
# customer = {{ type = "string", max_length = 20 }}
"""


def starter_file(agent: str = "", state_dir: str = STATE) -> str:
    """
    Return the text of a file with which an agent starts, and can do nothing.

    Args:
        agent: its name, as a token has it; where there is none, the machine's.
    """
    return _TEXT.format(agent=json.dumps(agent or machine_name()), state=json.dumps(state_dir))


def machine_name() -> str:
    """Return the machine's name in the letters that an agent's may have."""
    short = socket.gethostname().partition(".")[0].lower()
    return re.sub(r"[^a-z0-9_.-]", "-", short).strip("-_.")[:64] or "agent"


def state_dir_of(config: Path) -> Path:
    """Return the agent's folder; where the file can't be read, the one that a new file has."""
    try:
        loaded = config_file.load(config)
    except ConfigError:
        return config.parent / STATE
    return loaded.base_dir / loaded.settings.state_dir
