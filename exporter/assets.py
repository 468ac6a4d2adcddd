"""Files that ship with the exporter: rules, dashboards, runbooks, examples.

A wheel contains them in `exporter/assets_data` (see `force-include` in pyproject.toml). The name of an asset is its
path in the source tree, such as `docs/runbooks.md`.
"""

from collections.abc import Iterator
from pathlib import Path

from exporter.errors import JobrunError

SHIPPED = ("config.example.yaml", "prometheus", "grafana", "docs/runbooks.md", "deploy/systemd")
"""Files and folders of the source tree that are assets."""

PACKAGE = Path(__file__).parent


class AssetError(JobrunError):
    """An asset cannot be read or written."""


def read(name: str, package: Path = PACKAGE) -> str:
    """Return the text of an asset. Raises AssetError if it cannot be read."""
    try:
        return (root_of(package) / name).read_text(encoding="utf-8")
    except OSError as error:
        raise AssetError(f"{name} cannot be read: {error.strerror}") from None


def names(package: Path = PACKAGE) -> Iterator[str]:
    """Yield the names of all assets, in order."""
    root = root_of(package)
    for shipped in SHIPPED:
        found = root / shipped
        files = [found] if found.is_file() else sorted(path for path in found.rglob("*") if path.is_file())
        yield from (path.relative_to(root).as_posix() for path in files)


def root_of(package: Path) -> Path:
    """Return the folder to which the names of assets are relative."""
    packaged = package / "assets_data"
    return packaged if packaged.is_dir() else package.parent
