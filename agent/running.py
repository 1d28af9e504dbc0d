"""
``outhaul-agent run``, which the service starts: without the library that reads other commands, so that it starts fast.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from agent.errors import AgentError, EnrolmentError
from agent.exit_codes import DONE, FAILED, code_of
from agent.operator_file import find_file, load
from agent.secrets.opener import Opener


def run(config: Path | None) -> None:
    """
    Run in the foreground until it is stopped.

    Raises:
        AgentError: it can't, for a reason that somebody has to mend.
    """
    # The first: its process gets ready while all else is loaded.
    with closing(Opener()) as opener:
        from agent.service import notifier
        from agent.service.base import Nobody

        listening = notifier()
        if not isinstance(listening, Nobody):
            from agent import app

            # A service waits for what is missing: nobody sits there to read an error.
            return app.run_as_service(find_file(config), listening, opener)
        loaded = load(config, log_file=True)
        from agent import app
        from agent.identity.own_identity import find
        from agent.secrets.unlocking import UnlockedSecrets

        if find(loaded) is None:
            raise EnrolmentError(
                f"{app.state_dir(loaded)}: this agent has no certificate yet; run: outhaul-agent enroll --token TOKEN"
            )
        app.run(loaded, secrets=UnlockedSecrets(loaded.settings, loaded.base_dir, opener))


def speak_utf8() -> None:
    """Take and give UTF-8 on pipes and files too, where Windows would use the account's old code page."""
    # An editor's byte order mark is no part of a value; what can't be said in UTF-8 is shown, not fatal.
    for stream, encoding in ((sys.stdin, "utf-8-sig"), (sys.stdout, "utf-8"), (sys.stderr, "utf-8")):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():  # a service has none of the three
            stream.reconfigure(encoding=encoding, errors=None if stream is sys.stdin else "backslashreplace")


def main() -> NoReturn:
    """Run; every error is a sentence and an exit code."""
    match sys.argv[2:]:
        case []:
            config = None
        case ["--config", file] if not file.startswith("-") and not os.path.isdir(file):
            config = Path(file)
        case _:  # help, and words that are wrong
            from agent import cli

            cli.main()
    speak_utf8()
    try:
        run(config)
    except AgentError as exc:
        if sys.stderr is not None:
            sys.stderr.write(f"outhaul-agent: {exc}\n")
        sys.exit(code_of(exc))
    except KeyboardInterrupt:  # before signals are listened to
        sys.exit(FAILED)
    sys.exit(DONE)
