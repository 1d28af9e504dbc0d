"""NOTICE: whose work is in ours, and under which licences."""

from __future__ import annotations

from config.dev.locked import PROGRAMS, ROOT, licence, pins

_HEAD = """\
Outhaul
Licensed under the Apache License, Version 2.0; see LICENSE.

Outhaul uses these packages, which have licences of their own. They are not part of its wheel or its source; each
brings the text of its licence when it is installed. Exact versions and hashes stand in requirements/, and a bill of
materials (CycloneDX) lies beside each build.

"""


def notice() -> str:
    """The whole file."""
    programs: dict[str, list[str]] = {}
    for program in (*PROGRAMS, "arrow"):  # an extra of the agent
        for pin in pins(program):
            programs.setdefault(pin.name, []).append(program)
    lines = [f"{name:<24} {licence(name):<28} {', '.join(programs[name])}" for name in sorted(programs)]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "NOTICE").write_text(notice(), "utf-8", newline="\n")
