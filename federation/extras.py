"""Which extra of the installation brings which package."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

EXTRAS = ("auditor", "aggregator", "silo", "demo")  # the one with the least first
_PACKAGES = {  # where a package has another name than the module that it brings
    "google": "protobuf",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "sklearn": "scikit-learn",
}


def packages_of(extra: str) -> Iterator[str]:
    """What an extra asks for, by name."""
    for line in requires("cloister") or ():
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)
        if name and name[0] != "cloister" and f"extra == '{extra}'" in marker.replace('"', "'"):
            yield name[0]


def extra_with(module: str, wanted: str) -> str:
    """The extra to install where a module is missing: `wanted` if that brings it, else the least that does."""
    package = _PACKAGES.get(module, module.replace("_", "-"))
    try:
        return next((extra for extra in (wanted, *EXTRAS) if package in packages_of(extra)), wanted)
    except PackageNotFoundError:  # run from its source, installed nowhere
        return wanted
