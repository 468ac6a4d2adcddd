"""The documents are true: links and anchors, configs, commands, flags, keys, log lines."""

import ast
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import yaml

from exporter.cli import COMMANDS
from exporter.config import loads, schema
from exporter.counting.labels import OTHER
from exporter.errors import REASONS
from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES
from exporter.model import Disposition
from exporter.sources import KNOWN_NAMES, SOURCES

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))]
GUIDES = ["docs/tuning.md", "docs/troubleshooting.md", "docs/high-availability.md"]
VENDORS = [f"docs/sources/{vendor}.md" for vendor in SOURCES]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")

OTHERS_FLAGS = {"--enable-feature", "--cluster.peer", "--expires-in-days"}
"""Flags of other programs that pages name by themselves."""

OTHERS_WORDS = {
    "_created",
    "scrape_duration_seconds",
    "scrape_protocols",
    "grafana_url",
    "sample_limit",
    "label_value_length_limit",
}
"""Words with an underscore that pages name in code, and that are Prometheus'."""


OTHERS_MESSAGES = {
    "ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate",
    "GET …: 403",
    "GET …: 503",
    "context deadline exceeded",
    "state.db: database or disk is full",
}
"""Messages that are a status of an API, or come from OpenSSL, Prometheus or SQLite."""

MADE_BY_A_BUILD = {"exporter/assets_data"}
"""Paths that only a wheel has."""


def text_of(page):
    return (ROOT / page).read_text()


def prose(page):
    return FENCE.sub("", text_of(page))


def blocks(page, language):
    """Return the fenced blocks of a language, without the indentation of a list around them."""
    return [
        "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        for indent, word, body in FENCE.findall(text_of(page))
        if word == language
    ]


def anchors(page):
    """Yield the anchors of a page's headings, as GitHub makes them; repeated ones get a number."""
    seen = Counter()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", ""))
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor
        seen[anchor] += 1


@pytest.mark.parametrize("page", PAGES)
def test_every_anchor_that_a_page_links_to_is_a_heading(page):
    lacking = []
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", prose(page)):
        other = (ROOT / page).parent / target if target else ROOT / page
        if other.suffix == ".md" and anchor not in set(anchors(other.resolve().relative_to(ROOT).as_posix())):
            lacking.append(f"{target}#{anchor}")
    assert lacking == []


def test_the_index_names_every_page():
    index = text_of("docs/README.md")
    named = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)", index)}
    whole = [ROOT / page for page in PAGES if page.startswith("docs/") and "decisions" not in page]
    assert [page.name for page in whole if page not in named and page.name != "README.md"] == []
    assert "docs/README.md" in text_of("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_project_that_a_page_names_exists(page):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    named = {span for span in SPAN.findall(prose(page)) if re.fullmatch(r"\w+(/[\w.-]+)+/?", span)}
    ours = {span for span in named if span.partition("/")[0] in folders and "NAME" not in span}
    assert [path for path in ours - MADE_BY_A_BUILD if not (ROOT / path).exists()] == []


def yaml_blocks():
    return [
        pytest.param(body, id=f"{page}-{number}")
        for page in PAGES
        for number, body in enumerate(blocks(page, "yaml"), start=1)
    ]


@pytest.mark.parametrize("body", yaml_blocks())
def test_every_configuration_in_a_page_is_valid(body, tmp_path):
    data = yaml.safe_load(body)
    if not isinstance(data, dict) or "sources" not in data:
        return  # Prometheus', or a part of one
    for number, file in enumerate(re.findall(r"_file: ([^\s,}]+)", body)):
        secret = tmp_path / str(number)
        secret.write_text("secret")
        body = body.replace(file, str(secret))
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", body), "value")
    assert loads(body, environ, KNOWN_NAMES).sources


@pytest.mark.parametrize("page", VENDORS)
def test_each_vendors_page_has_setup_and_verification(page):
    text = text_of(page)
    setup = text.split("## Setup\n")[1].split("\n## ")[0]
    assert any("sources" in (yaml.safe_load(body) or {}) for body in blocks(page, "yaml"))
    assert "check --config.file=config.yaml --live" in setup
    assert "once --config.file=config.yaml" in setup
    assert "**Not tried " in setup, "what nobody has verified must be said"
    assert {"What is exported", "What it costs"} <= set(re.findall(r"^## (.+)$", text, re.MULTILINE))


def commands(page):
    """Yield the command lines of the exporter that a page shows, in blocks and in sentences."""
    code = [line for body in blocks(page, "sh") for line in body.splitlines()]
    for line in [*code, *SPAN.findall(prose(page))]:
        for found in re.findall(r"(?<!another )(?<![\w=-])jobrun-exporter ([a-z]+(?:-[a-z]+)*(?: [^#|;]*)?)", line):
            yield found.replace("\\|", "|")


def flags_of(command):
    return set(COMMANDS[command].flags)


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_of_a_command_that_a_page_shows_exists(page):
    wrong = []
    for line in commands(page):
        command, *words = shlex.split(line, posix="'" in line) or [""]
        named = {word.strip("[]").partition("=")[0] for word in words if word.strip("[").startswith("--")}
        known = flags_of(command) if command in COMMANDS else set()
        wrong += [line] if command not in COMMANDS or named - known else []
    assert wrong == []


@pytest.mark.parametrize("page", GUIDES + VENDORS)
def test_every_flag_that_a_guide_names_exists(page):
    known = set().union(*map(flags_of, COMMANDS)) | OTHERS_FLAGS
    named = {
        word.partition("=")[0] for span in SPAN.findall(prose(page)) for word in span.split() if word.startswith("--")
    }
    assert named - known == set()


def keys_of_the_schema():
    """Return every key of the config, with the keys below it."""
    json_schema = schema(KNOWN_NAMES)
    known = {}

    def walk(part, name):
        if "$ref" in part:
            part = json_schema["$defs"][part["$ref"].rpartition("/")[2]]
        for key, below in part.get("properties", {}).items():
            known.setdefault(name, set()).add(key)
            walk(below, key)
        for each in (*part.get("oneOf", ()), *part.get("anyOf", ()), part.get("items", {})):
            if each:
                walk(each, name)

    walk(json_schema, "")
    return known


LABELS = {label for family in (*FAMILIES, *REQUEST_FAMILIES) for label in family.labels}
WORDS = LABELS | {"job_name", OTHER} | set(REASONS) | {str(each) for each in Disposition} | OTHERS_WORDS


@pytest.mark.parametrize("page", GUIDES)
def test_every_key_of_the_configuration_that_a_guide_names_exists(page):
    known = keys_of_the_schema()
    every = set().union(*known.values())
    wrong = []
    for span in SPAN.findall(prose(page)):
        path = re.fullmatch(r"([a-z_]+)((?:\.[a-z_]+)*)(?:: .+)?", span)
        if path is None or span.startswith(("jobrun_", "state.db")):
            continue
        first, *below = f"{path[1]}{path[2]}".split(".")
        if below and first in known:
            wrong += [span] if below[0] not in known[first] else []
        elif (": " in span or "_" in first) and not below and first not in every | WORDS:
            wrong.append(span)
    assert wrong == []


@pytest.mark.parametrize("page", GUIDES)
def test_every_log_line_that_a_guide_quotes_is_one_that_the_code_writes(page):
    code = "\n".join(path.read_text() for path in (ROOT / "exporter").rglob("*.py"))
    named = {quoted or word for quoted, word in re.findall(r'msg=(?:"([^"]+)"|([\w.]+))', text_of(page))}
    assert [each for each in named if f'"{each}"' not in code] == []


def phrases():
    """Yield the texts of two or more words that the code may print."""
    for path in (ROOT / "exporter").rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            value = node.value if isinstance(node, ast.Constant) and id(node) not in docs else None
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            if isinstance(text, str) and " " in text.strip():
                yield text.strip(" :;,.\n")


def test_every_message_that_troubleshooting_quotes_is_one_that_the_code_prints():
    printed = set(phrases())
    quoted = {
        span
        for span in SPAN.findall(prose("docs/troubleshooting.md"))
        if len(span.split()) > 2 and not re.search(r"[=(){}<>|]|--|^curl", span)
    }
    known = {span for span in quoted if any(phrase in span or span in phrase for phrase in printed)}
    assert quoted - known - OTHERS_MESSAGES == set()


def test_troubleshooting_explains_every_reason():
    found = text_of("docs/troubleshooting.md").split("## `jobrun_source_up` is 0")[1].split("\n## ")[0]
    assert [reason for reason in REASONS if f"| `{reason}` |" not in found] == []
