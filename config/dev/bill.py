"""
The bill of materials (SBOM) of a program: what it is made of, as CycloneDX 1.6 in JSON.

It is made from the lock file, so it holds for every system: a package that only Windows wants says so in
its property ``outhaul:marker``. The same source always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from config.dev.locked import ROOT, Pin, licence, needs, pins, project, wanted

NAMES: Final = {"agent": "outhaul-agent", "broker": "outhaul-broker", "client": "outhaul"}

_LICENCES: Final = LicenseFactory()


def bill(program: str, made_at: datetime) -> str:
    """
    The bill of materials of a program as JSON.

    Args:
        program: ``agent``, ``broker`` or ``client``.
        made_at: the time that stands in it; the commit's, so that a second build gives the same bytes.
    """
    bom = Bom(serial_number=_serial(program))
    bom.metadata.timestamp = made_at.astimezone(UTC)
    root = Component(
        name=NAMES[program],
        version=project()["version"],
        type=ComponentType.APPLICATION,
        licenses=[_LICENCES.make_from_string(project()["license"])],
        bom_ref=NAMES[program],
    )
    bom.metadata.component = root
    parts = {pin.name: _part(pin) for pin in pins(program)}
    for part in parts.values():
        bom.components.add(part)
    direct = {canonicalize_name(requirement.name) for requirement in wanted(program)}
    bom.register_dependency(root, [parts[name] for name in sorted(direct & parts.keys())])
    for name, part in parts.items():
        bom.register_dependency(part, [parts[other] for other in sorted(needs(name) & parts.keys())])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _part(pin: Pin) -> Component:
    purl = PackageURL("pypi", None, pin.name, pin.version)
    files = [HashType(alg=HashAlgorithm.SHA_256, content=content) for content in pin.hashes]
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        licenses=[_LICENCES.make_from_string(licence(pin.name))],
        # One package is several files, one for each system; whoever installs it has one of these hashes.
        external_references=[
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(str(purl)), hashes=files)
        ],
        properties=[Property(name="outhaul:marker", value=pin.marker)] if pin.marker else [],
    )


def _serial(program: str) -> uuid.UUID:
    lock = hashlib.sha256((ROOT / "requirements" / f"{program}.txt").read_bytes()).hexdigest()
    return uuid.uuid5(uuid.NAMESPACE_URL, f"outhaul:{program}:{project()['version']}:{lock}")
