"""The command `assets`: writes rules, dashboards, runbooks and examples to a folder."""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from exporter.assets import PACKAGE, AssetError, names, read, root_of

RULES = "prometheus/rules/jobrun-exporter.yml"

LINK = re.compile(r"^( +)# (\w+: ')<(external-url|grafana-url)>(.*')$", re.MULTILINE)
"""A commented-out alert annotation: a link that needs an address."""

COPIED_LABELS = "team, page"
"""Labels that job rules copy from jobrun_job_info. This text appears nowhere else in the rules."""


def write(
    folder: Path,
    package: Path = PACKAGE,
    *,
    external_url: str = "",
    grafana_url: str = "",
    labels: Sequence[str] = (),
) -> Iterator[Path]:
    """Write all assets to a folder, replacing existing files, and yield each file. Raises AssetError.

    For the addresses see `with_links`; for the labels see `with_labels`.
    """
    root = root_of(package)
    # A wrong address is refused before anything is written.
    with_links("", external_url=external_url, grafana_url=grafana_url)
    for name in names(package):
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if name == RULES:
                rules = with_links(read(name, package), external_url=external_url, grafana_url=grafana_url)
                target.write_text(with_labels(rules, labels), encoding="utf-8")
            else:
                shutil.copyfile(root / name, target)
        except OSError as error:
            raise AssetError(f"{target} cannot be written: {error.strerror}") from None
        yield target


def with_links(rules: str, *, external_url: str = "", grafana_url: str = "") -> str:
    """Return rules with links to these addresses. Links without an address stay comments.

    Raises AssetError if an address is not an http(s) URL, or has characters that a rule cannot contain.
    """
    addresses = {
        "external-url": _address(external_url, "--external-url"),
        "grafana-url": _address(grafana_url, "--grafana-url"),
    }

    def fill(match: re.Match[str]) -> str:
        indent, name, placeholder, rest = match.groups()
        return f"{indent}{name}{addresses[placeholder]}{rest}" if addresses[placeholder] else match[0]

    return LINK.sub(fill, rules)


def with_labels(rules: str, labels: Sequence[str]) -> str:
    """Return rules that also copy these labels of jobrun_job_info.

    Args:
        rules: The text of the rules.
        labels: Names from `labels` of the objectives.
    """
    return rules.replace(COPIED_LABELS, ", ".join((COPIED_LABELS, *labels)))


def _address(url: str, flag: str) -> str:
    """Return an address without a trailing slash; "" stays "". Raises AssetError."""
    parts = urlsplit(url)
    wrong = url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment)
    # Braces would start a template, and a quote would end the text.
    if wrong or re.search(r"""[\s'"{}]""", url):
        raise AssetError(f"{flag} must be like https://jobruns.example.com, without a query; it is {url!r}")
    return url.rstrip("/")
