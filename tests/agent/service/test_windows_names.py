"""Who the service is to Windows' access lists."""

import pytest

from agent.service.windows_names import may_own, service_sid


@pytest.mark.parametrize(
    ("service", "sid"),
    [  # as `sc showsid` tells them
        ("TrustedInstaller", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"),
        ("trustedinstaller", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"),
        ("WdiServiceHost", "S-1-5-80-3139157870-2983391045-3678747466-658725712-1809340420"),
    ],
)
def test_a_services_sid_is_made_from_its_name(service: str, sid: str) -> None:
    assert service_sid(service) == sid


@pytest.mark.parametrize(
    ("owner", "may"),
    [
        ("S-1-5-18", True),
        ("S-1-5-32-544", True),
        ("S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464", True),
        ("S-1-5-21-1-2-3-500", True),  # who makes the service
        ("S-1-5-21-1-2-3-1001", False),
        ("S-1-5-32-545", False),
        ("S-1-5-32-5440", False),
        ("S-1-5-180", False),
        (service_sid(), False),  # the agent is not to change its own file
        ("S-1-1-0", False),
        ("", False),
    ],
)
def test_only_folders_of_the_system_and_the_administrators_become_the_agents(owner: str, may: bool) -> None:
    assert may_own(owner, caller="S-1-5-21-1-2-3-500") is may
