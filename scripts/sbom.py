"""Writes the software bill of materials of what a node runs with: CycloneDX, JSON. Usage: scripts/sbom.py FILE

Packages, versions and hashes come from the locks of the extras `web` and `dht`, licences and dependencies from the
installed packages of the same versions. It holds no address of a registry and no time, so that two runs give the same
bytes.
"""

from __future__ import annotations

import sys
import tomllib
import uuid
from importlib import metadata
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from crabnet._version import __version__
from scripts.lock import ROOT, Pin, parse_lock

_SCHEMA: Final = SchemaVersion.V1_6
_EXTRAS: Final = ("web", "dht")
_CLASSIFIER: Final = "License :: OSI Approved :: "


def bill(root: Path) -> Bom:
    """Return the bill for the clone at ``root``. Raises ValueError if an installed package has another version."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked: dict[str, Pin] = {}
    for extra in _EXTRAS:
        found_pins, faults = parse_lock((root / "requirements" / f"{extra}.txt").read_text(encoding="utf-8"))
        if faults:
            raise ValueError("; ".join(faults))
        locked.update((pin.name, pin) for pin in found_pins)
    pins = [pin for _, pin in sorted(locked.items())]
    components = {pin.name: _component(pin) for pin in pins}
    node = Component(
        name=project["name"],
        version=__version__,
        type=ComponentType.APPLICATION,
        description=project["description"],
        licenses=[LicenseFactory().make_from_string(project["license"])],
        purl=PackageURL("pypi", None, project["name"], __version__),
        bom_ref=project["name"],
    )
    found = Bom(metadata=BomMetaData(component=node), components=components.values())
    found.metadata.timestamp = None  # type: ignore[assignment]  # the field is optional in the format
    direct = [
        *project["dependencies"],
        *(each for extra in _EXTRAS for each in project["optional-dependencies"][extra]),
    ]
    found.register_dependency(node, _among(components, direct))
    for pin in pins:
        found.register_dependency(components[pin.name], _among(components, _installed(pin).requires or []))
    content = " ".join(f"{pin.name}=={pin.version} {' '.join(sorted(pin.hashes))}" for pin in pins)
    found.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"{node.purl} {content}")
    return found


def as_json(found: Bom) -> str:
    """Return the bill as a JSON text that is valid by its schema. Raises ValueError if it is not."""
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415 - it builds grammars for seconds

    text: str = make_outputter(found, OutputFormat.JSON, _SCHEMA).output_as_string(indent=2)
    fault = JsonStrictValidator(_SCHEMA).validate_str(text)
    if fault is not None:
        raise ValueError(f"the bill does not follow its schema: {fault}")
    return text + "\n"


def _component(pin: Pin) -> Component:
    purl = PackageURL("pypi", None, pin.name, pin.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        comment="the files of this version, on whatever platform",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.hashes],
    )
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        licenses=[LicenseFactory().make_from_string(text, license_acknowledgement=LicenseAcknowledgement.DECLARED)]
        if (text := _licence(_installed(pin)))
        else [],
        purl=purl,
        external_references=[files],
        bom_ref=pin.name,
    )


def _installed(pin: Pin) -> metadata.Distribution:
    found = metadata.distribution(pin.name)
    if found.version != pin.version:
        raise ValueError(f"{pin.name} {found.version} is installed, but the lock has {pin.version}; run `make env`")
    return found


def _licence(package: metadata.Distribution) -> str:
    """What the package says of its licence, as an expression where it has one."""
    fields = package.metadata
    for name in ("License-Expression", "License"):
        if name in fields:
            return fields[name]
    classifiers = fields.get_all("Classifier", [])
    return " AND ".join(text.removeprefix(_CLASSIFIER) for text in classifiers if _CLASSIFIER in text)


def _among(components: dict[str, Component], requirements: list[str]) -> list[Component]:
    """The components that are required, without extras and without those of other platforms."""
    wanted = [Requirement(text) for text in requirements]
    names = [
        canonicalize_name(each.name) for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})
    ]
    return [components[name] for name in names if name in components]


def main() -> int:
    """Run the command line. Returns the exit code."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(as_json(bill(ROOT)), encoding="utf-8")
    print(f"sbom: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
