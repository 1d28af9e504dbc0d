"""The program's look at itself, and that its table of late imports is complete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from agent.selfcheck import LATE, OF_A_SYSTEM
from tests.test_house import imports, within

SCRIPT = Path(sys.executable).parent / "outhaul-agent"
# Imported late by modules that live on Windows only; they are packed there, and `installer/contents.py` names them.
OF_WINDOWS = ("win32", "pywintypes", "servicemanager", "_win32", "winreg")


def test_every_late_import_of_a_library_is_tried() -> None:
    ours = [found for found in imports() if within(found.importer, "agent", "protocol") and not found.typing_only]
    at_once = {found.imported for found in ours if not found.deferred}
    late = {
        found.imported
        for found in ours
        if found.deferred
        and not within(found.imported, "agent", "protocol", *sys.stdlib_module_names)
        and not found.imported.startswith(OF_WINDOWS)
    }
    assert late - at_once == {*LATE, *OF_A_SYSTEM} - at_once


def test_an_installed_program_is_whole_too() -> None:
    done = subprocess.run([SCRIPT, "selfcheck", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(done.stdout)
    assert {"modules", "TLS", "journal", "synthetic connector", "driver process"} <= {
        one["subject"] for one in findings
    }
    assert all(one["ok"] and one["detail"] for one in findings)
