"""The example of the agent's file: which tables it has, and what stands in them."""

from __future__ import annotations

import hashlib
from typing import Final

from agent import settings
from agent.config_errors import model_of
from config.dev.example_file import Table, render, toml

__all__ = ["TABLES", "text", "toml"]

_HEAD: Final = """
# The agent's file, complete: each key with its meaning. A key behind a "#" has its default, or an
# example where there is none. Made from agent/settings.py by: python -m config.dev.reference
#
# Try it with: outhaul-agent check --config FILE
"""
_FILTERED: Final = frozenset({"link", "policy", "secrets", "log", "upgrade", "connections", "operations", "triggers"})

TABLES: Final[tuple[Table | str, ...]] = (
    _HEAD,
    Table(
        "", model_of(settings.Settings), {"agent": "plant-1", "state_dir": "/var/lib/outhaul-agent"}, leave=_FILTERED
    ),
    Table(
        "link",
        model_of(settings.Link),
        samples={
            "no_proxy": [".plant.example.com", "10.0.0.0/8"],
            "extra_authorities": "company-ca.pem",
            "urls": ["wss://broker-a.example.com:8443", "wss://broker-b.example.com:8443"],
            "url": "wss://broker.example.com:8443",
            "certificate": "plant-1.crt",
            "key": "plant-1.key",
            "passphrase": "{secret:plant-1-key}",
            "authorities": "broker-ca.crt",
        },
    ),
    Table(
        "policy",
        model_of(settings.Policy),
        samples={
            "require_signature": ["create-sales-order"],
            "groups": ["plants"],
        },
        leave=frozenset({"trusted_signers"}),
    ),
    Table(
        "policy.trusted_signers.web-shop",
        model_of(settings.SignerKey),
        {"key": "ed25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="},
        {"not_before": "2026-01-01T00:00:00Z", "not_after": "2027-06-30T00:00:00Z"},
        "A caller's public key; several of one caller stand as [[policy.trusted_signers.web-shop]].",
    ),
    Table("secrets", model_of(settings.Secrets)),
    Table("log", model_of(settings.Log), samples={"file": "/var/log/outhaul-agent/agent.log"}),
    Table(
        "upgrade",
        model_of(settings.Upgrade),
        samples={"trusted_keys": ["ed25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]},
    ),
    Table(
        "connections.erp",
        model_of(settings.OdbcConnection),
        {
            "type": "odbc",
            "connection_string": "Driver={PostgreSQL Unicode};Server=127.0.0.1;Database=erp;"
            "Uid=outhaul;Pwd={secret:erp-password}",
            "ledger": "outhaul_ledger",
        },
        {"rate": "600/min", "windows": ["mon-fri 06:00-22:00"]},
        "--- a database -----------------------------------------------------------------------------",
        frozenset({"breaker"}),
    ),
    Table(
        "connections.erp.breaker",
        model_of(settings.Breaker),
        remark="When the connection is left alone, and for how long.",
    ),
    Table(
        "operations.open-invoices",
        model_of(settings.SqlOperation),
        {
            "connection": "erp",
            "description": "Unpaid invoices of a customer.",
            "effect": "read",
            "sql": "SELECT * FROM open_invoices(:customer, :since)",
        },
        {
            "verify": "find-invoice",
            "mask": ["iban"],
            "columns": ["no", "total", "due", "iban"],
            "max_rows": 100_000,
            "allow": ["web-shop"],
            "business_errors": ["P0001", "23514"],
        },
        leave=frozenset({"params"}),
    ),
    "[operations.open-invoices.params]\n"
    "# A short parameter fits on its line.\n"
    'since = { type = "date", default = "2000-01-01" }',
    Table(
        "operations.open-invoices.params.customer",
        model_of(settings.Param),
        {"type": "string", "max_length": 20},
        {
            "required": True,
            "default": "C001",
            "enum": ["C001", "C002"],
            "min": 0,
            "max": 100,
            "min_length": 1,
            "pattern": "C[0-9]+",
            "scale": 2,
            "precision": 12,
        },
        "All that can be said of a parameter.",
    ),
    Table(
        "operations.create-sales-order",
        model_of(settings.ProcedureOperation),
        {
            "connection": "erp",
            "description": "Enter a sales order.",
            "effect": "once",
            "timeout": "30s",
            "procedure": "create_sales_order",
            "business_errors": ["P0001", "23514"],
        },
        {"pin": f"sha256:{hashlib.sha256(b'procedure').hexdigest()}"},
        leave=frozenset({"params"}),
    ),
    "[operations.create-sales-order.params]\n"
    'customer = { type = "string", max_length = 20 }\n'
    'total = { type = "decimal", min = 0, scale = 2 }\n'
    'lines = { type = "json" }\n'
    'order_no = { type = "string", direction = "out" }',
    Table(
        "connections.edi",
        model_of(settings.FileConnection),
        {"type": "file", "root": "/srv/edi/inbox"},
        remark="--- a folder -------------------------------------------------------------------------------",
    ),
    Table(
        "operations.drop-order",
        model_of(settings.DropOperation),
        {"connection": "edi", "drop": "ORD-{order_no}.csv", "encoding": "cp1252"},
        leave=frozenset({"format"}),
    ),
    Table(
        "operations.drop-order.format",
        model_of(settings.FileFormat),
        {"type": "csv", "columns": ["order_no", "sku", "qty"], "delimiter": ";"},
        {"widths": [10, 12, 6], "align": ["left", "left", "right"], "root": "order"},
    ),
    Table(
        "operations.pick-confirmations",
        model_of(settings.PickOperation),
        {"connection": "edi", "pick": "CONF*.csv", "format": {"type": "csv", "delimiter": ";"}, "then": "archive"},
    ),
    Table(
        "connections.finance",
        model_of(settings.SoapConnection),
        {"type": "soap", "wsdl": "finance.wsdl"},
        {"endpoint": "http://127.0.0.1:8088/finance", "ca": "finance-ca.pem"},
        "--- a SOAP service -------------------------------------------------------------------------",
        frozenset({"auth"}),
    ),
    Table(
        "connections.finance.auth",
        model_of(settings.SoapAuth),
        {"scheme": "wsse", "username": "svc", "password": "{secret:finance}"},
        {"certificate": "client.pem", "key": "client.key"},
    ),
    Table(
        "operations.post-invoice",
        model_of(settings.CallOperation),
        {"connection": "finance", "call": "PostInvoice", "business_faults": ["PeriodClosed"]},
        {"service": "FinanceService", "port": "FinancePort", "rows": "Orders/Order"},
    ),
    Table(
        "connections.probe",
        model_of(settings.SyntheticConnection),
        {"type": "synthetic"},
        remark="--- no outside system: for probes and load tests ---------------------------------------------",
    ),
    Table("operations.echo", model_of(settings.SyntheticOperation), {"connection": "probe", "synthetic": "echo"}),
    Table(
        "triggers.new-shipments",
        model_of(settings.TableTrigger),
        {
            "type": "table",
            "connection": "erp",
            "sql": "SELECT id, order_no, shipped_at FROM shipments WHERE id > :after ORDER BY id",
            "after": {"column": "id", "start": 0},
            "event": "com.example.erp.shipment.created",
        },
        remark="--- what the agent is to watch: kept for a later release, nothing is watched yet -------------",
    ),
    Table(
        "triggers.stock-files",
        model_of(settings.FileTrigger),
        {"type": "file", "connection": "edi", "pattern": "STOCK*.csv", "event": "com.example.erp.stock.reported"},
    ),
)


def text() -> str:
    """Return the example file."""
    return render(TABLES)
