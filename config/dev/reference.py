"""
Pages and example files made from the code; ``python -m config.dev.reference`` writes them.

To add one: write a function without parameters that returns the text, and one line in ``PAGES``. A
test compares every page with its file.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from agent import cli as agent_cli
from agent import settings
from agent.config_errors import model_of
from cloud_broker import cli as broker_cli
from cloud_broker import settings as broker_settings
from config.dev import (
    agent_example,
    asyncapi_page,
    audit_page,
    check_page,
    codes,
    ledger_page,
    notice,
    programs,
    troubles_page,
    wire,
)
from config.dev.markdown import table

ROOT: Final = Path(__file__).resolve().parents[2]

AGENT_FILE: Final[tuple[tuple[str, tuple[type[BaseModel], ...]], ...]] = (
    ("The top of the file", (model_of(settings.Settings),)),
    ("[link]", (model_of(settings.Link),)),
    ("[policy]", (model_of(settings.Policy),)),
    ("[policy.trusted_signers.NAME], or [[policy.trusted_signers.NAME]] for several", (model_of(settings.SignerKey),)),
    ("[secrets]", (model_of(settings.Secrets),)),
    ("[log]", (model_of(settings.Log),)),
    ("[upgrade]", (model_of(settings.Upgrade),)),
    (
        "[connections.NAME]",
        (
            model_of(settings.OdbcConnection),
            model_of(settings.FileConnection),
            model_of(settings.SoapConnection),
            model_of(settings.SyntheticConnection),
        ),
    ),
    ("[connections.NAME.breaker]", (model_of(settings.Breaker),)),
    ("[connections.NAME.auth] of a SOAP connection", (model_of(settings.SoapAuth),)),
    ("[operations.NAME]", tuple(map(model_of, settings.OPERATION_KINDS.values()))),
    ("[operations.NAME.format] of a drop or a pick", (model_of(settings.FileFormat),)),
    ("[operations.NAME.params.NAME]", (model_of(settings.Param),)),
    ("[triggers.NAME]", (model_of(settings.TableTrigger), model_of(settings.FileTrigger))),
)

BROKER_FILE: Final[tuple[tuple[str, type[BaseModel]], ...]] = (
    ("The top of the file", broker_settings.Settings),
    ("[api]", broker_settings.ApiSettings),
    ("[[api.issuers]]", broker_settings.IssuerSettings),
    ("[link]", broker_settings.LinkSettings),
    ("[certificates]", broker_settings.CertificateSettings),
    ("[limits]", broker_settings.LimitSettings),
    ("[retries]", broker_settings.RetrySettings),
    ("[approvals]", broker_settings.ApprovalSettings),
    ("[log]", broker_settings.LogSettings),
)

_WORDS: Final = {  # what a value is called that is checked by one of our functions
    settings.seconds: 'duration, such as `"30s"`',
    settings.per_second: 'rate, such as `"600/min"`',
    settings.window: "window",
}
_TYPES: Final[dict[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    Any: "any value",
}


def agent_file() -> str:
    """Return the reference of ``agent.toml``."""
    parts = [
        "# The agent's file",
        "",
        "Made from `agent/settings.py` by `python -m config.dev.reference`; a complete example is "
        "[`config/agent.example.toml`](../../config/agent.example.toml).",
        "",
        "The file is TOML. A key that is not on this page is an error. Durations are text with a unit (`ms`, `s`, "
        "`min`, `h`, `d`) or seconds as a number; rates are commands per `s`, `min` or `h`; windows are days and local "
        'times, such as `"mon-fri 06:00-22:00"` or `"sat,sun 22:00-04:00"`. `{secret:NAME}` in a connection stands '
        "for a value that `outhaul-agent secret set NAME` keeps.",
    ]
    for title, models in AGENT_FILE:
        parts += ["", f"## {_escaped(title)}"]
        shared = set.intersection(*(set(_inherited(model)) for model in models))
        if shared:
            base = _base(models[0])
            parts += ["", f"{_sentence(base)} (All kinds.)", "", *_table(base, list(base.model_fields))]
        for model in models:
            own = [name for name in model.model_fields if name not in shared or name in model.__annotations__]
            if len(models) > 1:
                parts += ["", f"### {_kind(model)}"]
            parts += ["", _sentence(model), "", *_table(model, own)]
    return "\n".join(parts) + "\n"


def broker_file() -> str:
    """Return the reference of ``broker.toml``."""
    parts = [
        "# The broker's file",
        "",
        "Made from `cloud_broker/settings.py` by `python -m config.dev.reference`; a complete example is "
        "[`config/broker.example.toml`](../../config/broker.example.toml).",
        "",
        "The file is TOML, and all of it is optional. Without `--config`, the file that `OUTHAUL_BROKER_CONFIG` names "
        "is read, or `broker.toml` in the working folder. Paths are relative to the file's folder. A key that is not "
        "on this page is an error.",
    ]
    for title, model in BROKER_FILE:
        parts += ["", f"## {_escaped(title)}", "", *_table(model, list(model.model_fields))]
    return "\n".join(parts) + "\n"


def agent_program() -> str:
    """Return the reference of ``outhaul-agent``."""
    about = (
        "The file is [`agent.toml`](agent-file.md). Where a command takes `--config`, the file is the named one, else "
        "the one that `OUTHAUL_AGENT_CONFIG` names, else `agent.toml` in the working folder, else "
        "`/etc/outhaul-agent/agent.toml` (Windows: `%PROGRAMDATA%\\Outhaul\\agent.toml`)."
    )
    return programs.page("outhaul-agent", agent_cli.cli, about)


def broker_program() -> str:
    """Return the reference of ``outhaul-broker``."""
    about = "The file is [`broker.toml`](broker-file.md); all of it is optional."
    return programs.page("outhaul-broker", broker_cli.main, about)


PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/reference/agent-file.md": agent_file,
    "docs/reference/asyncapi.json": asyncapi_page.page,
    "docs/reference/audit.md": audit_page.page,
    "docs/reference/broker-file.md": broker_file,
    "docs/reference/check.md": check_page.page,
    "docs/reference/errors.md": codes.page,
    "docs/reference/ledger.md": ledger_page.page,
    "docs/reference/link.md": troubles_page.page,
    "docs/reference/outhaul-agent.md": agent_program,
    "docs/reference/outhaul-broker.md": broker_program,
    "docs/reference/wire.md": wire.page,
    "config/agent.example.toml": agent_example.text,
    "NOTICE": notice.notice,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(), encoding="utf-8", newline="\n")
        print(name)


def _table(model: type[BaseModel], names: list[str]) -> list[str]:
    rows = [
        (f"`{name}`", _type(field), _default(field), field.description or "") for name, field in _fields(model, names)
    ]
    return table(("key", "type", "default", "meaning"), rows)


def _fields(model: type[BaseModel], names: list[str]) -> Iterator[tuple[str, FieldInfo]]:
    for name in names:
        yield name, model.model_fields[name]


def _inherited(model: type[BaseModel]) -> list[str]:
    return list(_base(model).model_fields)


def _base(model: type[BaseModel]) -> type[BaseModel]:
    base = model.__bases__[0]
    assert issubclass(base, BaseModel)  # noqa: S101 - every model is one; this tells mypy
    return base


def _kind(model: type[BaseModel]) -> str:
    if "type" in model.model_fields:
        return f'`type = "{get_args(model.model_fields["type"].annotation)[0]}"`'
    return f"`{next(kind for kind, known in settings.OPERATION_KINDS.items() if known.__name__ == model.__name__)}`"


def _sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _escaped(title: str) -> str:
    return re.sub(r"^(\[+[^\]]+\]+)", r"`\1`", title)


def _type(field: FieldInfo) -> str:
    return _word(field.metadata) or _named(field.annotation)


def _word(metadata: Any) -> str | None:
    validators = (entry.func for entry in metadata if isinstance(entry, BeforeValidator))
    return next((_WORDS[function] for function in validators if function in _WORDS), None)


def _named(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _word(args[1:]) or _named(args[0])
    if origin in (Union, types.UnionType):
        members = [member for member in args if member is not type(None)]
        if any(isinstance(member, type) and issubclass(member, BaseModel) for member in map(_bare, members)):
            return "table"
        return " or ".join(dict.fromkeys(map(_named, members)))
    if origin is Literal:
        return ", ".join(f"`{_toml(choice)}`" for choice in args)
    if origin is tuple:
        return f"list of {_named(args[0])}"
    if origin is dict:
        return f"table: name to {_named(args[1])}"
    return _TYPES.get(annotation, "table")


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or isinstance(value, BaseModel | settings.Model):
        return ""
    if _word(field.metadata) == _WORDS[settings.seconds]:
        return f'`"{value:g}s"`'
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    return agent_example.toml(value.as_posix() if isinstance(value, Path) else value)


if __name__ == "__main__":
    main()
