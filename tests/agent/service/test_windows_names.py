"""Who the service is to Windows' access lists."""

import pytest

from agent.service.windows_names import service_sid


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
