import io

import pytest

from exporter import cli
from exporter.assets import AssetError
from exporter.commands.assets import MANIFEST, write

ONE_TWO = {"rules/a.yml": b"one", "b.yml": b"two"}


def contents(folder):
    return [(folder / name).read_bytes() for name in ONE_TWO]


def test_files_are_written_and_replace_unchanged_files_of_an_older_version(tmp_path):
    write(ONE_TWO, tmp_path)
    assert contents(tmp_path) == [b"one", b"two"]
    write(ONE_TWO | {"b.yml": b"newer"}, tmp_path)
    assert contents(tmp_path) == [b"one", b"newer"]


def test_if_one_file_was_changed_no_file_is_overwritten(tmp_path):
    write(ONE_TWO, tmp_path)
    (tmp_path / "b.yml").write_text("mine")
    newer = ONE_TWO | {"rules/a.yml": b"newer"}
    with pytest.raises(AssetError, match=r"changed since they were written: b\.yml\. Nothing was written"):
        write(newer, tmp_path)
    assert contents(tmp_path) == [b"one", b"mine"]
    write(newer, tmp_path, force=True)
    assert contents(tmp_path) == [b"newer", b"two"]


@pytest.mark.parametrize("manifest", [None, b"\xff\xfe", b"nonsense\n"])
def test_files_of_unknown_origin_count_as_changed_if_they_differ(tmp_path, manifest):
    write(ONE_TWO, tmp_path)
    (tmp_path / MANIFEST).unlink()
    if manifest is not None:
        (tmp_path / MANIFEST).write_bytes(manifest)
    write(ONE_TWO, tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(AssetError):
        write(ONE_TWO | {"b.yml": b"newer"}, tmp_path)


def assets(*flags):
    out, err = io.StringIO(), io.StringIO()
    code = cli.main(["assets", *flags], cli.Console(out, err, {}))
    return code, out.getvalue(), err.getvalue()


def test_the_command_keeps_a_changed_alertmanager_file_unless_it_is_forced(tmp_path):
    output = f"--output={tmp_path}"
    assert assets(output)[0] == 0
    mine = tmp_path / "prometheus" / "alertmanager.yml"
    mine.write_text("route: {}\n")
    code, out, err = assets(output)
    assert (code, out) == (1, "")
    assert "prometheus/alertmanager.yml" in err
    assert mine.read_text() == "route: {}\n"
    assert assets(output, "--force")[0] == 0
    assert mine.read_text() != "route: {}\n"


def test_the_command_takes_the_addresses_of_pages_and_grafana(tmp_path):
    flags = ("--external-url=https://jobruns.example.com", "--grafana-url=https://grafana.example.com")
    assert assets(f"--output={tmp_path}", *flags, "--for=prometheus")[0] == 0
    assert assets(f"--output={tmp_path / 'b'}", "--external-url=nonsense")[0] == 1
    assert not (tmp_path / "b").exists()
    assert assets(f"--output={tmp_path}", "--for=mixin")[0] == 2


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "file").touch()
    code, _, err = assets(f"--output={tmp_path / 'file'}")
    assert (code, err) == (1, f"{tmp_path / 'file'} cannot be written: Not a directory\n")
