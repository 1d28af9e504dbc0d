"""The page of what ``outhaul-agent check`` can find, with the remedies that it shows."""

from __future__ import annotations

from typing import Final

from agent.check.remedies import REMEDIES
from agent.diagnostics import IN_IT, NOT_IN_IT
from config.dev.markdown import table

KINDS: Final = {
    "account": "The account that checks",
    "file": "The operator's file",
    "clock": "The clock",
    "state": "The state folder",
    "secrets": "Secrets",
    "identity": "Certificate and keys",
    "network": "The way to the broker",
    "connection": "Connections of every kind",
    "odbc": "Databases",
    "folder": "Folders",
    "soap": "SOAP services",
    "operation": "Operations",
}
STAGES: Final = (
    ("account", "whose rights it is tried with"),
    ("file", "it is read; remarks on what is unwise; how many connections and operations"),
    ("clock", "not before anything that has already happened; whether the system keeps it right by the network"),
    ("state", "the folder `state_dir` is written durably; room; who else may read it; what kind of disk it is on"),
    ("secrets", "the store is opened, and has each secret that the file names; no value is shown"),
    ("identity", "the certificate and how long it is good; the agent's own keys"),
    ("dns, tcp, proxy, tls, upgrade, identity, round trip, throughput", "the way to the broker, step by step"),
    (
        "connections",
        "a session is opened. Databases: product, version, driver and its version, bitness, what it is known to "
        "change, whether letters of several scripts come back, the ledger's table. Folders: a small hidden file is "
        "written durably, read, renamed and removed; the archive folder; room. Services: the WSDL is read, each "
        "endpoint connected to, TLS, and whether it takes the account",
    ),
    (
        "operations",
        "each is prepared against what is really there, and not run: statements are explained by the database, "
        "procedures looked up and their parameters compared with the file's; names, patterns and encodings; "
        "operations of the WSDL",
    ),
)
ABOUT: Final = """
`outhaul-agent check` tries every part, in the order in which they need each other, and prints a line for each: `ok`,
`FAILED` with what to do under it, or `note` for what is neither. What can't work because of something before it is not
tried, and the line says which. Nothing is run and nothing is changed. `outhaul-agent check OPERATION` tries one
operation and what it needs. What to do with it: [find out what is wrong](../howto/find-out-what-is-wrong.md).

**With whose rights.** What works for an administrator may not work for the service. So where an agent runs, it is the
one that tries: it starts the same program as a child, which has its account, its rights and its sandbox. Where none
runs, root takes on the account that owns `state_dir` (without the service's sandbox); on Windows it is tried with the
account of who asks, and a note says so. `--here` tries it with the account of who asks, in any case.

**For programs.** `--json` gives `{"ok", "stages": [{"stage", "subject", "ok", "detail", "code", "fix", "seconds"}]}`;
`ok` is true, false, or null for a note; codes are stable. Exit codes: 0 nothing failed; 1 something did; 2 the file is
wrong; 3 only the way to the broker failed.
"""
DIAGNOSTICS: Final = """
`outhaul-agent diagnostics` puts into one zip what somebody who helps wants to know. It never overwrites a file.

Of the operator's file it has the structure, and of the values only those on a list; whatever is not on it is `***`, and
its words are taken out of every other text too, as are the values of secrets. Without the store of secrets the log is
left out. The zip's `link.txt` is the history of the link.
"""


def page() -> str:
    """Return the page."""
    lines = ["# `outhaul-agent check`", "", "Made from `agent/check/`; don't edit.", ABOUT, "## Stages", ""]
    lines += table(("stage", "what is tried"), STAGES)
    lines += ["", "## What can fail, and what to do", "", "The code stands in `--json`."]
    for kind, title in KINDS.items():
        rows = [
            (f"`{code}`", remedy.means, remedy.fix)
            for code, remedy in REMEDIES.items()
            if code.partition(".")[0] == kind
        ]
        lines += ["", f"### {title}", "", *table(("code", "what it is", "what to do"), rows)]
    lines += ["", "## `outhaul-agent diagnostics`", DIAGNOSTICS]
    lines += table(("part", "what"), [(f"`{name}`", what) for name, what in IN_IT.items()])
    lines += ["", "Not in it:", "", *(f"* {what}" for what in NOT_IN_IT)]
    return "\n".join(lines) + "\n"
