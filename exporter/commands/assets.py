"""The command `assets`: writes rules, dashboards, runbooks and examples to a folder."""

import errno
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from exporter.assets import PACKAGE, AssetError, names, root_of

RULES = "prometheus/rules/jobrun-exporter.yml"

LINK = re.compile(r"^( +)# (\w+: ')<(external-url|grafana-url)>(.*')$", re.MULTILINE)
"""A commented-out annotation of an alert: a link that needs an address."""

COPIED_LABELS = "team, page"
"""Labels that alerts of jobs copy from jobrun_job_info. In the rules, this text is only in lists of these labels."""

MANIFEST = ".jobrun-exporter-assets"
"""File with the digests of the files written last, in the format of `sha256sum`. It shows which files were changed."""


def contents(
    package: Path = PACKAGE, *, external_url: str = "", grafana_url: str = "", labels: Sequence[str] = ()
) -> dict[str, bytes]:
    """Return the content of each asset, by name. Raises AssetError if an address is invalid.

    Args:
        package: Folder of the exporter's package.
        external_url: Address of the exporter's pages; "" for no links to them.
        grafana_url: Address of Grafana; "" for no links to it.
        labels: Additional labels that alerts of jobs copy from jobrun_job_info.
    """
    files = {name: (root_of(package) / name).read_bytes() for name in names(package)}
    addresses = {
        "external-url": _address(external_url, "--external-url"),
        "grafana-url": _address(grafana_url, "--grafana-url"),
    }
    if RULES in files:
        files[RULES] = with_labels(_with_links(files[RULES].decode(), addresses), labels).encode()
    return files


def write(files: Mapping[str, bytes], folder: Path, *, force: bool = False) -> None:
    """Write files to a folder. `force`: also overwrite files that were changed by hand.

    Raises AssetError if a changed file would be overwritten: then nothing is written. Also if a file cannot be written:
    then earlier ones have been.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if changed := [] if force else _changed(files, folder):
            raise AssetError(
                f"changed since they were written: {', '.join(changed)}. Nothing was written: move them away, "
                "or add --force to lose the changes"
            )
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        manifest = "".join(f"{_digest(content)}  {name}\n" for name, content in sorted(files.items()))
        (folder / MANIFEST).write_text(manifest)
    except OSError as error:
        raise AssetError(f"{folder} cannot be written: {error.strerror}") from None


def _changed(files: Mapping[str, bytes], folder: Path) -> list[str]:
    """Return the names of existing files that differ from the new content and from what was written last."""
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return [
        name
        for name, content in sorted(files.items())
        if (file := folder / name).exists() and _digest(file.read_bytes()) not in {_digest(content), written.get(name)}
    ]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _with_links(rules: str, addresses: Mapping[str, str]) -> str:
    """Return rules with links to these addresses. A link whose address is "" stays a comment."""

    def fill(match: re.Match[str]) -> str:
        indent, name, placeholder, rest = match.groups()
        return f"{indent}{name}{addresses[placeholder]}{rest}" if addresses[placeholder] else match[0]

    return LINK.sub(fill, rules)


def with_labels(rules: str, labels: Sequence[str]) -> str:
    """Return rules whose alerts of jobs also copy these labels."""
    return rules.replace(COPIED_LABELS, ", ".join((COPIED_LABELS, *labels)))


def _address(url: str, flag: str) -> str:
    """Return an address without a trailing slash. Raises AssetError if it is neither an http(s) URL nor ""."""
    parts = urlsplit(url)
    is_url = parts.scheme in ("http", "https") and parts.netloc and not parts.query and not parts.fragment
    # In a rule, a brace would begin a template, and a quote would end the text.
    if url and (not is_url or re.search(r"""[\s'"{}]""", url)):
        raise AssetError(f"{flag} must be like https://jobruns.example.com, without a query; it is {url!r}")
    return url.rstrip("/")
