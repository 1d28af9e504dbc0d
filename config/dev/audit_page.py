"""The page of the audit trail: every act that is noted, and what a record has."""

from __future__ import annotations

from cloud_broker.audit.lines import Line
from cloud_broker.audit.trail import ACTIONS
from config.dev.markdown import table

ABOUT = """# The audit trail

Made from `cloud_broker/audit/trail.py` by `python -m config.dev.reference`. What it is for stands
[here](../explanation/audit.md), how it is checked [here](../howto/verify-what-happened.md).

## A record

`GET /v1/audit` lists records, newest first; with `Accept: application/x-ndjson` it gives all of them as lines, oldest
first. `action`, `target` and `since` choose; an export that is to be verified must be whole.
"""
MEMBERS = {
    "tenant": 'whose chain; `""` for the broker\'s own',
    "number": "1 for a chain's first, then without a gap",
    "at": "RFC 3339, UTC, microseconds",
    "actor": "`key:ID`, `subject:WHO`, `agent:NAME`, `operator:USER`, `broker`",
    "action": "one of those below",
    "target": '`command:ID`, `key:ID`, `agent:NAME`, `token:ID`, `tenant:NAME` …, or `""`',
    "correlation_id": 'of the command, or `""`',
    "detail": "an object; digests as `sha256:HEX`",
    "previous": "hash of the record before it, hex; 64 zeros before the first",
    "hash": "SHA-256 of all other members as canonical JSON (RFC 8785), hex",
}


def page() -> str:
    """Return the page."""
    members = [(f"`{name}`", MEMBERS[name]) for name in Line.__struct_fields__]
    acts = [(f"`{name}`", text) for name, text in ACTIONS.items()]
    parts = [ABOUT, *table(("member", "meaning"), members), "", "## Acts", "", *table(("action", "what"), acts)]
    return "\n".join(parts) + "\n"
