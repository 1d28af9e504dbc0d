"""What the source of the MSI says: names that stay, and every step with its way back."""

from pathlib import Path

import pytest
from lxml import etree

from installer.windows import actions, msi

WIX = "{http://schemas.microsoft.com/wix/2006/wi}"


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """Something like a frozen program."""
    for name in ("outhaul-agent.exe", "VERSION", "_internal/a & b.pyd", "_internal/lib/c.dll"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_the_same_files_get_the_same_names_and_each_file_one_component(frozen: Path) -> None:
    text = msi.wxs(frozen, "0.1.0")
    assert msi.wxs(frozen, "0.1.0") == text
    tree = etree.fromstring(text.encode())
    files = [file.get("Source") for file in tree.iter(f"{WIX}File")]
    assert sorted(map(str, files)) == [
        "files/VERSION", "files/_internal/a & b.pyd", "files/_internal/lib/c.dll", "files/outhaul-agent.exe"
    ]  # fmt: skip
    components = [component.get("Guid") for component in tree.iter(f"{WIX}Component")]
    assert len(set(components)) == len(components) == len(files) + 1
    assert len(list(tree.iter(f"{WIX}ComponentRef"))) == len(components)


def test_a_later_release_is_another_product_of_the_same_kind_with_the_same_components(frozen: Path) -> None:
    this, later = (etree.fromstring(msi.wxs(frozen, release).encode()) for release in ("0.1.0", "0.2.0"))
    one, other = (next(tree.iter(f"{WIX}Product")) for tree in (this, later))
    assert one.get("UpgradeCode") == other.get("UpgradeCode")
    assert one.get("Id") != other.get("Id")
    guids = [[component.get("Guid") for component in tree.iter(f"{WIX}Component")] for tree in (this, later)]
    assert guids[0] == guids[1]


@pytest.mark.parametrize("release", ["0.1", "0.1.0.1", "0.1.0-rc1", "256.0.0", "0.0.65536", ""])
def test_a_release_that_windows_can_not_count_is_refused(release: str) -> None:
    with pytest.raises(msi.MsiError, match="three numbers"):
        msi.windows_version(release)


def test_each_step_that_changes_the_machine_has_its_way_back_before_it() -> None:
    deferred, rollback = 0x0400, 0x0100
    changes = [action for action in actions.ACTIONS if action.kind & deferred and not action.kind & rollback]
    backs = [action for action in actions.ACTIONS if action.kind & rollback]
    # What is removed for good is removed last: there is nothing after it that could fail but the copying of no files.
    assert {action.name for action in changes} == {"StopService", "RemoveService", "KeepToken", "InstallService"}
    assert {action.name for action in backs} == {"StartServiceAgain", "ForgetToken", "TakeServiceBack"}
    for back, change in (
        ("StartServiceAgain", "StopService"),
        ("ForgetToken", "KeepToken"),
        ("TakeServiceBack", "InstallService"),
    ):
        places = {action.name: action.at for action in actions.ACTIONS}
        assert places[back] < places[change]


def test_the_token_is_hidden_wherever_windows_installer_writes_down_what_it_does() -> None:
    hidden = 0x2000
    for action in actions.ACTIONS:
        if "TOKEN]" in action.target or action.name == "KeepToken":
            assert action.kind & hidden, action.name
    assert set(actions.HIDDEN) == {"TOKEN", "KeepToken"}
