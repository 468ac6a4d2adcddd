import io

import pytest

from exporter import cli
from exporter.commands.placing import MANIFEST, ChangedFilesError, place


@pytest.fixture
def staged(tmp_path):
    folder = tmp_path / "staged"
    (folder / "rules").mkdir(parents=True)
    (folder / "rules" / "a.yml").write_text("one")
    (folder / "b.yml").write_text("two")
    return folder


def test_files_are_written_and_replace_unchanged_files_of_an_older_version(staged, tmp_path):
    folder = tmp_path / "out"
    place(staged, folder, force=False)
    assert (folder / "rules" / "a.yml").read_text() == "one"
    (staged / "b.yml").write_text("newer")
    place(staged, folder, force=False)
    assert (folder / "b.yml").read_text() == "newer"


def test_if_one_file_was_changed_no_file_is_overwritten(staged, tmp_path):
    folder = tmp_path / "out"
    place(staged, folder, force=False)
    (folder / "b.yml").write_text("mine")
    (staged / "rules" / "a.yml").write_text("newer")
    with pytest.raises(ChangedFilesError, match=r"changed since they were written: b\.yml\. Nothing was written"):
        place(staged, folder, force=False)
    assert ((folder / "b.yml").read_text(), (folder / "rules" / "a.yml").read_text()) == ("mine", "one")
    place(staged, folder, force=True)
    assert ((folder / "b.yml").read_text(), (folder / "rules" / "a.yml").read_text()) == ("two", "newer")


@pytest.mark.parametrize("manifest", [None, b"\xff\xfe", b"nonsense\n"])
def test_files_of_unknown_origin_count_as_changed_if_they_differ(staged, tmp_path, manifest):
    folder = tmp_path / "out"
    place(staged, folder, force=False)
    (folder / MANIFEST).unlink()
    if manifest is not None:
        (folder / MANIFEST).write_bytes(manifest)
    place(staged, folder, force=False)
    (folder / MANIFEST).unlink()
    (staged / "b.yml").write_text("newer")
    with pytest.raises(ChangedFilesError):
        place(staged, folder, force=False)


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
