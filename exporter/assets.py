"""What comes with the exporter beside its code: rules, dashboards, runbooks, examples.

A wheel carries them in `exporter/assets_data` (see `force-include` in pyproject.toml); in a source tree they are where
they are written. In both they have the same names, which are those of the source tree: `docs/runbooks.md`.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from exporter.errors import JobrunError

SHIPPED = ("config.example.yaml", "prometheus", "grafana", "docs/runbooks.md", "deploy/systemd")
"""Files, and folders with all that is in them."""

RULES = "prometheus/rules/jobrun-exporter.yml"

LINK = re.compile(r"^( +)# (\w+: ')<(external-url|grafana-url)>(.*')$", re.MULTILINE)
"""An annotation of an alert that is a comment until it is known where it leads."""

WHOSE = "team, page"
"""Labels of jobrun_job_info that all rules about jobs carry along; in this order nowhere else in the rules."""

PACKAGE = Path(__file__).parent


class AssetError(JobrunError):
    """An asset is not there, or cannot be written."""

    reason = "assets"


def read(name: str, package: Path = PACKAGE) -> str:
    """The text of one asset, by its name in the source tree. Raises AssetError if there is none."""
    try:
        return (_root(package) / name).read_text(encoding="utf-8")
    except OSError as error:
        raise AssetError(f"{name} cannot be read: {error.strerror}") from None


def names(package: Path = PACKAGE) -> Iterator[str]:
    """All assets, in order."""
    root = _root(package)
    for shipped in SHIPPED:
        found = root / shipped
        files = [found] if found.is_file() else sorted(path for path in found.rglob("*") if path.is_file())
        yield from (path.relative_to(root).as_posix() for path in files)


def write(
    folder: Path,
    package: Path = PACKAGE,
    *,
    external_url: str = "",
    grafana_url: str = "",
    labels: Sequence[str] = (),
) -> Iterator[Path]:
    """Write all assets below a folder, over those that are there, and yield each file. Raises AssetError.

    The addresses become links of the alerts, see `linked`; the labels of objectives their labels, see `labeled`.
    """
    root = _root(package)
    # A wrong address is refused before anything is written.
    linked("", external_url=external_url, grafana_url=grafana_url)
    for name in names(package):
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if name == RULES:
                rules = linked(read(name, package), external_url=external_url, grafana_url=grafana_url)
                target.write_text(labeled(rules, labels), encoding="utf-8")
            else:
                shutil.copyfile(root / name, target)
        except OSError as error:
            raise AssetError(f"{target} cannot be written: {error.strerror}") from None
        yield target


def linked(rules: str, *, external_url: str = "", grafana_url: str = "") -> str:
    """Return rules with the links filled in that are known; the others stay comments.

    Args:
        rules: The text of the rules.
        external_url: Where people open the exporter's pages, as `web.external_url` in the configuration.
        grafana_url: Where people open Grafana.

    Raises:
        AssetError: If one of them is not an http(s) address that can stand in a rule.
    """
    known = {
        "external-url": _address(external_url, "--external-url"),
        "grafana-url": _address(grafana_url, "--grafana-url"),
    }

    def fill(match: re.Match[str]) -> str:
        indent, name, place, rest = match.groups()
        return f"{indent}{name}{known[place]}{rest}" if known[place] else match[0]

    return LINK.sub(fill, rules)


def labeled(rules: str, labels: Sequence[str]) -> str:
    """Return rules whose alerts of jobs have more labels of jobrun_job_info.

    Args:
        rules: The text of the rules.
        labels: Names from `labels` of the objectives.
    """
    return rules.replace(WHOSE, ", ".join((WHOSE, *labels)))


def _address(url: str, flag: str) -> str:
    """Return an address without the slash at its end; "" stays as it is."""
    parts = urlsplit(url)
    wrong = url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment)
    # Braces would be a template, and a quote would end the text.
    if wrong or re.search(r"""[\s'"{}]""", url):
        raise AssetError(f"{flag} must be like https://jobruns.example.com, without a query; it is {url!r}")
    return url.rstrip("/")


def _root(package: Path) -> Path:
    """The folder below which assets have their names."""
    carried = package / "assets_data"
    return carried if carried.is_dir() else package.parent
