"""Rules of the whole project: imports go one way, each vendor has all its parts, documents agree with the code."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

from exporter import __version__
from exporter.cli import COMMANDS
from exporter.metrics.docs import document
from exporter.model import Result
from exporter.simulators import SIMULATORS
from exporter.sources import SOURCES

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))]

LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("daemon",),
    ("sharing",),
    ("replica",),
    ("pages",),
    ("web",),
    ("queries",),
    ("assembly",),
    ("polling", "exposition"),
    ("sources",),
    ("ledger",),
    ("state",),
    ("metrics",),
    ("snapshot", "logs"),
    ("links",),
    ("config", "client", "counting", "simulators", "assets"),
    ("learning",),
    ("cron",),
    ("model", "errors", "duration", "patterns", "times", "signals", "supervision", "probe"),
)
"""Packages, and the modules next to them. Data goes from the bottom to the top; each imports only from below it."""


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted((ROOT / "exporter").rglob("*.py"))}


def imports(module):
    """Yield the modules that a module imports."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from sorted(name if name in MODULES else node.module or "" for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


EDGES = {module: {each for each in imports(module) if each in MODULES} - {"exporter"} for module in MODULES}
"""What each imports; that the package itself, which knows its version, is imported says nothing."""


def part(module):
    """Return the package of a module, or the module if it is in none."""
    return module.split(".")[1]


def test_each_package_has_its_layer():
    assert sorted(name for names in LAYERS for name in names) == sorted({part(each) for each in MODULES if "." in each})


def test_architecture_names_every_package():
    text = (ROOT / "docs/architecture.md").read_text()
    parts = {each for names in LAYERS for each in names} - {"__main__"}
    assert [each for each in sorted(parts) if f"`{each}/`" not in text and f"`{each}.py`" not in text] == []


def test_the_path_of_a_row_has_at_most_eleven_forms():
    walk = (ROOT / "docs/architecture.md").read_text().split("from HTTP to `/metrics`")[1].split("\n## ")[0]
    forms = re.findall(r"^\| `?(\w+)`? \| `(exporter/[\w/]+\.py)` \|", walk, re.MULTILINE)
    assert 1 < len(forms) <= 11
    classes = [(name, file) for name, file in forms if name != "bytes"]
    assert [each for each in classes if f"\nclass {each[0]}(" not in (ROOT / each[1]).read_text()] == []


def test_packages_import_from_layers_below_their_own_and_so_never_in_circles():
    layer = {name: index for index, names in enumerate(LAYERS) for name in names}
    across = [(module, each) for module in EDGES for each in EDGES[module] if part(module) != part(each)]
    assert [(module, each) for module, each in across if layer[part(each)] <= layer[part(module)]] == []


def test_modules_do_not_import_each_other_in_circles():
    graphlib.TopologicalSorter(EDGES).prepare()


def test_a_package_has_a_one_line_docstring():
    # These have a table in `__init__`, or export there what others use.
    tables = {"exporter", "exporter.config", "exporter.sources", "exporter.simulators"}
    packages = {name: path for name, path in MODULES.items() if path.name == "__init__.py" and name not in tables}
    assert [name for name, path in packages.items() if not re.fullmatch(r'"""[^"\n]+"""\n', path.read_text())] == []


@pytest.mark.parametrize("vendor", SOURCES)
def test_a_vendor_is_named_only_in_its_package_and_one_row_of_the_table(vendor):
    sources = ROOT / "exporter/sources"
    own = {path.relative_to(ROOT).as_posix() for path in (sources / f"{vendor}.py", *(sources / vendor).glob("*.py"))}
    naming = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES.values()
        if re.search(rf"\b{vendor}", path.read_text().lower()) and "simulators" not in path.parts
    }
    assert naming - own == {"exporter/sources/__init__.py"}


@pytest.mark.parametrize("vendor", SOURCES)
def test_a_vendor_has_every_required_part(vendor):
    assert vendor in SIMULATORS, "no simulator"
    assert (ROOT / f"exporter/simulators/{vendor}.py").exists()
    assert (ROOT / f"docs/sources/{vendor}.md").exists(), "no page in docs/sources"
    assert list((ROOT / f"tests/sources/{vendor}").glob("test_*.py")), "no tests"
    assert f"type: {vendor}" in (ROOT / "config.example.yaml").read_text(), "no block in config.example.yaml"
    assert f"docs/sources/{vendor}.md" in (ROOT / "README.md").read_text(), "no column in the README's support table"
    assert SOURCES[vendor].endpoints


def support(row):
    """Return a row of the README's support table, by vendor."""
    table = (ROOT / "README.md").read_text().split("## What each vendor provides")[1]
    vendors = re.findall(r"docs/sources/(\w+)\.md", table)
    line = next(line for line in table.splitlines() if row in line)
    return dict(zip(vendors, [cell.strip() for cell in line.split("|")[2:-1]], strict=True))


def test_the_support_table_names_the_vendors_with_attempts_and_steps():
    shown = {vendor: cell not in {"-", ""} for vendor, cell in support("`jobrun_run_retries_total`").items()}
    assert shown == {vendor: kind.has_attempts for vendor, kind in SOURCES.items()}
    shown = {vendor: cell not in {"-", ""} for vendor, cell in support("`jobrun_steps_total`").items()}
    assert shown == {vendor: kind.has_steps for vendor, kind in SOURCES.items()}


def test_the_support_table_names_the_results_of_each_vendor():
    common = {"success", "failure", "unknown"}
    everything = {str(result) for result in Result}
    for vendor, cell in support("results that a new job shows at 0").items():
        named = everything if cell == "all" else common | set(re.findall(r"`(\w+)`", cell))
        assert named == {str(result) for result in SOURCES[vendor].results}, vendor


def test_every_simulator_has_its_source():
    assert SIMULATORS.keys() == SOURCES.keys()


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"`{name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_metric_that_a_page_names_exists(page):
    known = set(re.findall(r"^\| `(jobrun_\w+)`", document(), re.MULTILINE))
    known |= {f"{name}{ending}" for name in known for ending in ("_bucket", "_sum", "_count")}
    named = set(re.findall(r"(?<![\w:])jobrun_[a-z_]+[a-z]\b", (ROOT / page).read_text())) - {
        "jobrun_exporter",
        "jobrun_source",
        "jobrun_url",  # an external label of Prometheus
    }
    assert {name for name in named if name not in known and not name.startswith("jobrun_exporter_test")} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_exists(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


def test_every_test_that_the_promises_name_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)`: `(test_\w+)`", (ROOT / "docs/promises.md").read_text())
    assert named
    assert [each for each in named if f"def {each[1]}(" not in (ROOT / each[0]).read_text()] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("pyproject.toml", 'version = "{}"'),
        ("Dockerfile", 'org.opencontainers.image.version="{}"'),
        ("deploy/compose/compose.yaml", "image: jobrun-exporter:{}"),
        ("deploy/helm/jobrun-exporter/Chart.yaml", "version: {}"),
        ("deploy/helm/jobrun-exporter/Chart.yaml", "appVersion: {}"),
        ("docs/install.md", "--tag jobrun-exporter:{}"),
    ],
)
def test_every_file_that_names_the_version_names_this_one(file, line):
    assert line.format(__version__) in (ROOT / file).read_text()


def test_the_changelog_has_a_dated_part_and_a_link_for_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    released = [part for part in parts if part not in {"Unreleased", "[Unreleased]"}]
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", released[0])
    links = re.findall(r"^\[(.+)\]: https://", text, re.MULTILINE)
    assert [part for part in released if part.split("]")[0][1:] not in links] == []


def test_the_changelog_has_only_the_sections_of_keep_a_changelog():
    sections = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
