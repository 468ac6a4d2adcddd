"""Assets of the exporter, in a source tree and in an installed package."""

import io
import tomllib
from pathlib import Path

import pytest

from exporter import assets, cli
from exporter.commands.assets import RULES, contents, write

ROOT = Path(__file__).parent.parent


def tree(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


FILES = {"prometheus/rules/a.yml": "groups: []\n", "grafana/b.json": "{}\n", "docs/runbooks.md": "# Runbooks\n"}
SORTED = ["prometheus/rules/a.yml", "grafana/b.json", "docs/runbooks.md"]


@pytest.fixture(params=["source tree", "installed"])
def package(request, tmp_path):
    """Return a package's folder with known assets."""
    package = tmp_path / "somewhere" / "exporter"
    package.mkdir(parents=True)
    tree(package / "assets_data" if request.param == "installed" else package.parent, FILES)
    return package


def test_assets_have_the_same_names_in_a_source_tree_and_in_an_installed_package(package):
    assert list(assets.names(package)) == SORTED
    assert assets.read("docs/runbooks.md", package) == "# Runbooks\n"


def test_no_other_file_of_the_source_tree_is_an_asset(package):
    tree(package.parent, {"docs/metrics.md": "x", "secrets.yml": "x"})

    assert list(assets.names(package)) == SORTED


def test_assets_are_written_over_those_of_an_older_version(package, tmp_path):
    output = tree(tmp_path / "output", {"grafana/b.json": "old", "grafana/own.json": "mine"})

    write(contents(package), output, force=True)
    assert {name: (output / name).read_text() for name in FILES} == FILES
    assert (output / "grafana/own.json").read_text() == "mine"


def test_a_missing_asset_is_named(package):
    with pytest.raises(assets.AssetError, match=r"docs/none\.md cannot be read: No such file"):
        assets.read("docs/none.md", package)


def test_an_unwritable_folder_is_named(package, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(assets.AssetError, match="cannot be written: Not a directory"):
        write(contents(package), tmp_path / "file")


def test_the_command_writes_every_asset_and_lists_it(tmp_path):
    out = io.StringIO()

    assert cli.main(["assets", f"--output={tmp_path}"], cli.Console(out, io.StringIO(), {})) == 0
    written = [Path(line) for line in out.getvalue().splitlines()]
    assert written == [tmp_path / name for name in assets.names()]
    assert all(path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes() for path in written)


CONFIG = """
sources:
  - {name: s, type: strait, base_url: "http://localhost:1", auth: {api_key: k}}
objectives:
  - {match: {job_name: a}, labels: {tier: "1"}}
  - {match: {job_name: b}, labels: {cost_center: "4711"}}
"""


def test_the_rules_carry_the_labels_of_the_objectives_of_a_config(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    flags = [f"--output={tmp_path / 'out'}", f"--config.file={tmp_path / 'config.yaml'}"]

    assert cli.main(["assets", *flags], cli.Console(io.StringIO(), io.StringIO(), {})) == 0
    written, shipped = (tmp_path / "out" / RULES).read_text(), (ROOT / RULES).read_text()
    assert written.count("team, page, cost_center, tier") == shipped.count("team, page") > 0


def test_with_an_invalid_config_nothing_is_written(tmp_path):
    (tmp_path / "config.yaml").write_text("sources: []")
    flags = [f"--output={tmp_path / 'out'}", f"--config.file={tmp_path / 'config.yaml'}"]

    assert cli.main(["assets", *flags], cli.Console(io.StringIO(), io.StringIO(), {})) == 1
    assert not (tmp_path / "out").exists()


def test_the_wheel_contains_exactly_the_assets():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {name: f"exporter/assets_data/{name}" for name in assets.SHIPPED}
