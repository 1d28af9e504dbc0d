"""``python -m installer.linux --frozen DIR --output DIR``: deb, rpm and a plain archive of a frozen agent."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agent import RELEASE
from installer.build import made_at
from installer.linux.package import KINDS, PackageError, package


def main() -> None:
    """Make them, and print their names."""
    parser = argparse.ArgumentParser(prog="python -m installer.linux", description=__doc__)
    parser.add_argument("--frozen", type=Path, required=True, help="the folder that installer.build made")
    parser.add_argument("--output", type=Path, required=True, help="where the packages go")
    parser.add_argument("--only", choices=KINDS, action="append", help="not all of them; may be given more than once")
    parser.add_argument("--release", default=RELEASE, help="another one, to try an upgrade")
    told = parser.parse_args()
    try:
        made = package(told.frozen, told.output, made_at(), kinds=told.only or KINDS, release=told.release)
    except PackageError as exc:
        sys.exit(f"installer.linux: {exc}")
    for path in made:
        print(path)  # noqa: T201 - the command's answer


if __name__ == "__main__":
    main()
