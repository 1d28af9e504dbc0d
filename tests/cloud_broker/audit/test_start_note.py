"""The broker's start is noted with its settings, and with nothing that is secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cloud_broker.audit import trail as audit
from cloud_broker.audit.start_note import facts, started, stopped
from cloud_broker.audit.trail import ACTIONS, BEGINNING
from cloud_broker.settings import LimitSettings, Settings

ROOT = Path(__file__).parents[3]


def test_a_start_tells_every_setting_as_it_is(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(command_bytes=4711))
    act = started(settings, 1_790_000_000.0)
    assert (act.tenant, act.action) == (audit.BROKER, "broker_started")
    told = act.detail["settings"]
    assert told.keys() == Settings.model_fields.keys()
    assert told["limits"]["command_bytes"] == 4711


def test_a_password_in_an_address_is_left_out(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path).model_copy(update={"store": "postgresql://outhaul:hunter2@db/outhaul"})
    assert facts(settings)["store"] == "postgresql://…@db/outhaul"


def test_what_is_told_has_one_way_to_be_written(tmp_path: Path) -> None:
    """A fraction has many; a hash over it would be another one elsewhere."""
    for act in (started(Settings(data_dir=tmp_path), 0.0), stopped(0.0)):
        record = audit.unchained(act)
        audit.chain(record, 0, BEGINNING)
        json.loads(audit.canonical(record), parse_float=_never)


def _never(text: str) -> float:
    raise AssertionError(f"a fraction: {text}")


def test_every_act_that_has_a_name_is_noted_somewhere() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "cloud_broker").rglob("*.py") if path.name != "trail.py"]
    text = "\n".join(sources)
    assert [name for name in ACTIONS if f'"{name}"' not in text] == []
    assert all(re.fullmatch(r"[a-z]+_[a-z]+", name) for name in ACTIONS)
