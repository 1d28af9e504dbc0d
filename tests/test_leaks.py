"""No key, token or password that could be a real one is in the repository: what git would show to everybody."""

from __future__ import annotations

import math
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

# What keys and tokens look like, ours and those of others.
LOOKS: Final = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{40}"),
    "key of our API": re.compile(r"\bohk_[0-9a-f]{12}_[0-9a-f]{64}"),
    "token of ours": re.compile(r"\boht1\.[A-Za-z0-9_-]{80,}"),
    "AWS": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "GitHub": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})"),
    "GitLab": re.compile(r"\bglpat-[A-Za-z0-9_-]{20}"),
    "PyPI": re.compile(r"\bpypi-[A-Za-z0-9_-]{50,}"),
    "npm": re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"),
    "Slack": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "Google": re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),
    "signed token": re.compile(r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{40,}\.[A-Za-z0-9_-]{40,}"),
    "address with a password": re.compile(
        r"\b(?:https?|postgres(?:ql)?|mqtts?|amqp)://[^\s/:@'\"{}<>]+:([^\s/@'\"{}<>]{12,})@"
    ),
}
# `password = "…"` and the like, with something in it that nobody types.
ASSIGNED: Final = re.compile(
    r"(?i)(?:secret|passw(?:or)?d|passphrase|api_?key|token|private_?key)[\"']?\s*[:=]\s*b?[\"']([^\"'\s{}]{20,})[\"']"
)
RANDOM_BITS: Final = 4.0  # of each character; words have some 3, keys in base64 more than 4

# Made up for tests or documents, and why.
KNOWN: Final = {
    "tests/agent/link/test_proxy.py": "a proxy's password with every character that means something in a URL",
    "tests/agent/test_discretion.py": "the same",
    "tests/agent/test_secrets.py": "the same",
    "tests/fuzz/corpus/signature/good": "a signature of 64 equal bytes",
    "tests/fuzz/corpus/token/nested": "a token of brackets",
    "tests/test_leaks.py": "what has to be found",
}


def tracked() -> list[Path]:
    """All files that belong to the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def leaks(text: str) -> list[str]:
    """What in a text could be a secret."""
    found = [kind for kind, look in LOOKS.items() if look.search(text)]
    return found + [f"{value[:4]}…" for value in ASSIGNED.findall(text) if _bits(value) > RANDOM_BITS]


def _bits(value: str) -> float:
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def test_nothing_that_could_be_a_secret_is_in_the_repository() -> None:
    found = []
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        data = path.read_bytes()
        if name not in KNOWN and b"\0" not in data:
            found += [f"{name}: {kind}" for kind in leaks(data.decode("utf-8", "replace"))]
    assert found == []


def test_no_file_is_one_that_holds_keys_or_state() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked()]
    wrong = re.compile(r"(?:^|/)(?:\.env|.*\.(?:pem|key|p12|pfx|jks|keystore|vault|db|sqlite3?)|id_(?:rsa|ed25519))$")
    assert [name for name in names if wrong.search(name)] == []


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PRIVATE " + "KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "postgresql://svc:hunter2hunter2@127.0.0.1/erp",
        'api_key = "' + "q7Zp2XvK9sLm4TnB8cRd1WfYhJ6gEa" + '"',
        "oht1." + "eyJ2IjoxLCJ1cmwiOiJ3c3M6Ly9icm9rZXIi" * 4,
    ],
    ids=lambda text: text[:8],
)
def test_a_secret_would_be_found(text: str) -> None:
    assert leaks(text)


@pytest.mark.parametrize("text", ['password = "{secret:erp-password}"', 'token = "the-token-of-somebody"', "a:b@c"])
def test_words_are_no_secrets(text: str) -> None:
    assert leaks(text) == []
