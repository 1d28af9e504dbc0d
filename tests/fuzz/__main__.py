"""
``make fuzz``: each target under atheris for its share of the time; finds are kept in ``.dev/fuzz/finds``.

What once broke a target belongs in its corpus: copy it there under a name that says what it is.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CORPUS: Final = Path(__file__).parent / "corpus"
WORK: Final = ROOT / ".dev" / "fuzz"
NAMES: Final = sorted(path.name for path in CORPUS.iterdir())
WATCHED: Final = ["protocol", "agent", "cloud_broker", "json", "tomllib", "csv"]  # whose branches guide atheris
BOUNDS: Final = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=20000", "-print_final_stats=1")


def main() -> int:
    """Run all targets, or one as libFuzzer wants it; the exit code says whether anything was found."""
    words = argparse.ArgumentParser(prog="python -m tests.fuzz")
    words.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    words.add_argument("--only", action="append", choices=NAMES, help="this target; may be given again")
    words.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    asked, rest = words.parse_known_args()
    if asked.one:
        return _here(asked.one, rest)
    chosen = asked.only or NAMES
    seconds = max(1, round(asked.minutes * 60 / len(chosen)))
    found = [name for name in chosen if not _apart(name, seconds)]
    print(f"fuzz: {len(chosen)} targets, {seconds} s each; finds in: {', '.join(found) or 'none'}")
    return 1 if found else 0


def _apart(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own, which a find ends; whether there was none."""
    queue, finds = WORK / "corpus" / name, WORK / "finds"
    for folder in (queue, finds):
        folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz", "--one", name, f"-max_total_time={seconds}", *BOUNDS]
    done = subprocess.run(
        [*command, f"-artifact_prefix={finds}/{name}-", str(queue), str(CORPUS / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    runs = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "?")
    print(f"fuzz: {name}: {runs} runs, {'nothing' if done.returncode == 0 else 'FOUND'}", flush=True)
    if done.returncode != 0:
        (finds / f"{name}.log").write_text(done.stdout + done.stderr, "utf-8")
        print((done.stdout + done.stderr)[-2_000:], file=sys.stderr)
    return done.returncode == 0


def _here(name: str, words: list[str]) -> int:
    # `make fuzz` installs it, from requirements/fuzz.txt; nothing else wants it.
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=WATCHED):
        targets = importlib.import_module("tests.fuzz.targets")
    atheris.Setup([sys.argv[0], *words], targets.TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
