"""What leaves the site: whatever the kind of connection, and however the names are written."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import errors
from agent.config_file import parse
from agent.connectors.base import Call, DriverSetup, Outputs, Rows, RowSet
from agent.connectors.synthetic import SyntheticConnector
from agent.errors import ConfigError
from agent.leaving import MASKED, Leaving
from agent.settings import OperationBase, PickOperation, SyntheticConnection, SyntheticOperation
from agent.settings_reader import read
from tests.agent.connectors.conftest import MakeFileDriver, rows, run


def operation(**keys: Any) -> OperationBase:
    return OperationBase(connection="erp", **keys)


@pytest.mark.parametrize("name", ["iban", "IBAN", " Iban ", "\uff29\uff22\uff21\uff2e", "iban\t"])
def test_a_mask_hides_a_name_however_it_is_written(name: str) -> None:
    assert Leaving(operation(mask=("iban",))).hides(name)
    assert Leaving(operation(mask=(name,))).hides("iban")


def test_masks_hold_inside_of_outputs_too() -> None:
    given = {"order": {"lines": [{"Account": "x", "no": 1}], "account": None}, "no": 2}
    assert Leaving(operation(mask=("account",))).outputs(given) == {
        "order": {"lines": [{"Account": MASKED, "no": 1}], "account": None},
        "no": 2,
    }


@given(st.sets(st.text("abAB", min_size=1, max_size=2)), st.sets(st.text("abAB", min_size=1, max_size=2), min_size=1))
def test_no_output_that_is_not_listed_ever_leaves(there: set[str], listed: set[str]) -> None:
    leaving = Leaving(operation(columns=tuple(sorted(listed))))
    kept = leaving.outputs(dict.fromkeys(there, 1))
    folded = {name.casefold() for name in listed}
    assert kept.keys() == {name for name in there if name.casefold() in folded}
    assert {name.casefold() for name in leaving.missing()} == folded - {name.casefold() for name in there}


# --- synthetic ------------------------------------------------------------------------------------


def synthetic(params: dict[str, Any], **keys: Any) -> tuple[list[str], list[dict[str, Any]], dict[str, Any]]:
    """Run a synthetic operation; columns, rows and outputs."""
    made = read({"connection": "p", **keys}, SyntheticOperation)
    connector = SyntheticConnector(DriverSetup("p", SyntheticConnection(type="synthetic"), {"op": made}))
    columns: list[str] = []
    lines: list[dict[str, Any]] = []
    outputs: dict[str, Any] = {}

    async def all_of() -> None:
        async for piece in connector.run(Call("c", "op", json.dumps(params).encode(), 10.0)):
            if isinstance(piece, RowSet):
                columns.extend(column.name for column in piece.columns)
            elif isinstance(piece, Rows):
                lines.extend(map(json.loads, piece.data.splitlines()))
            elif isinstance(piece, Outputs):
                outputs.update(piece.values)

    asyncio.run(all_of())
    return columns, lines, outputs


@pytest.mark.parametrize(
    ("listed", "line"),
    [
        (["N"], {"n": 0}),
        (["c1"], {"c1": "value 1"}),
        (["c2", "n"], {"n": 0, "c2": "value 2"}),
    ],
)
def test_made_up_rows_have_only_the_listed_columns(listed: list[str], line: dict[str, Any]) -> None:
    columns, lines, _ = synthetic({"count": 1, "width": 3}, synthetic="rows", columns=listed)
    assert (columns, lines) == (list(line), [line])


def test_made_up_rows_can_be_masked_and_are_counted() -> None:
    assert synthetic({"count": 1, "width": 2}, synthetic="rows", mask=["C1"])[1] == [{"n": 0, "c1": MASKED}]
    with pytest.raises(errors.SourceFailed, match="has no 'iban'"):
        synthetic({"count": 1}, synthetic="rows", columns=["n", "iban"])
    with pytest.raises(errors.TooManyRows):
        synthetic({"count": 11}, synthetic="rows", max_rows=10)
    assert len(synthetic({"count": 10}, synthetic="rows", max_rows=10)[1]) == 10


FILE = """
agent = "a"
state_dir = "s"
[connections.edi]
type = "file"
root = "."
[operations.op]
connection = "edi"
"""

# --- files ----------------------------------------------------------------------------------------


def pick(**keys: Any) -> PickOperation:
    return read({"connection": "edi", "pick": "*.csv", "format": {"type": "csv"}, **keys}, PickOperation)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    (made / "A.csv").write_text("no,Iban,iban\n1,DE01,DE02\n")
    return made


def test_a_picked_file_gives_only_listed_columns(file_driver: MakeFileDriver, folder: Path) -> None:
    pieces = run(file_driver(pick(columns=["NO"])))
    assert rows(pieces) == [{"no": "1"}]
    receipt = pieces[-1]
    assert isinstance(receipt, Outputs)
    assert [file["name"] for file in receipt.values["files"]] == ["A.csv"], "what follows a pick needs its receipt"


def test_a_column_that_a_file_has_twice_is_masked_twice(file_driver: MakeFileDriver, folder: Path) -> None:
    (folder / "A.csv").write_text("no,iban,iban\n1,DE01,DE02\n")
    assert set(rows(run(file_driver(pick(mask=["IBAN"]))))[0].values()) == {"A.csv", "1", MASKED}


def test_a_listed_column_that_a_file_does_not_have_is_told_with_the_file(
    file_driver: MakeFileDriver, folder: Path
) -> None:
    with pytest.raises(errors.ContentInvalid, match=r"A\.csv.*has no 'bic'.*operations\.op\.columns"):
        run(file_driver(pick(columns=["no", "bic"])))
    (folder / "A.csv").unlink()
    assert rows(run(file_driver(pick(columns=["no", "bic"])))) == [], "no file says anything else"


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ('pick = "*"\nformat = {type = "csv", columns = ["a"]}\ncolumns = ["b"]', "columns"),
        ('pick = "*"\nformat = {type = "csv", columns = ["a"]}\nmask = ["b"]', "mask"),
        ('drop = "a"\nformat = {type = "raw"}\ncolumns = ["b"]', "means nothing for a drop"),
        ('drop = "a"\nformat = {type = "raw"}\nmax_rows = 1', "means nothing for a drop"),
    ],
)
def test_limits_that_mean_nothing_are_told_with_the_file(keys: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse(f"{FILE}{keys}\n", "agent.toml")


def test_file_and_any_case_may_be_listed_of_a_pick() -> None:
    keys = 'pick = "*"\nformat = {type = "csv", columns = ["a"]}\ncolumns = ["file", "A"]\nmask = ["File"]\n'
    assert parse(FILE + keys, "agent.toml").operations["op"].columns == ("file", "A")
