import os

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from exporter.config.secret import MASK, MAX_SIZE, Secret, SecretError
from exporter.config.values import ReadableFile


class Holder(BaseModel):
    word: Secret


def test_a_secret_is_shown_by_reveal_alone():
    secret = Secret("hidden word")

    shown = [repr(secret), str(secret), f"{secret}", repr([secret]), repr(Holder(word=secret))]
    assert not [text for text in shown if "hidden" in text]
    assert secret.reveal() == "hidden word"
    assert str(secret) == MASK


def test_a_model_accepts_a_text_and_prints_a_mask():
    holder = Holder.model_validate({"word": "hidden\n"})

    assert holder.word.reveal() == "hidden"
    assert holder.model_dump_json() == f'{{"word":"{MASK}"}}'
    assert holder.model_dump() == {"word": MASK}
    assert Holder.model_json_schema()["properties"]["word"]["type"] == "string"


def test_a_file_is_read_again_when_it_changed(tmp_path):
    file = tmp_path / "key"
    file.write_text("one\n")
    secret = Secret(file=file)
    assert secret.reveal() == "one"

    file.write_text("second\r\n")
    assert secret.reveal() == "second"


def test_a_file_that_is_too_large_for_a_secret_is_refused(tmp_path):
    file = tmp_path / "key"
    file.write_text("x" * (MAX_SIZE + 1))
    with pytest.raises(SecretError, match="is larger than 65536 bytes"):
        Secret(file=file).reveal()


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "cannot be read: not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "cannot be read: not a regular file"),
        (lambda path: path.symlink_to("/dev/tty"), "cannot be read: (not a regular file|No such device or address)"),
        (lambda path: path.mkdir(), "cannot be read: not a regular file"),
    ],
)
def test_only_a_regular_file_is_read(tmp_path, make, message):
    file = tmp_path / "key"
    make(file)
    for read in (Secret(file=file).reveal, lambda: TypeAdapter(ReadableFile).validate_python(str(file))):
        with pytest.raises((SecretError, ValidationError), match=message):
            read()


def test_a_symbolic_link_to_a_regular_file_is_followed_as_kubernetes_mounts_secrets(tmp_path):
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "key").write_text("one")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "key").symlink_to("..data/key")

    assert Secret(file=tmp_path / "key").reveal() == "one"


@pytest.mark.parametrize("kept", ["size and inode", "size and time"])
def test_a_file_of_the_same_size_is_read_again_by_its_time_or_inode(tmp_path, kept):
    file = tmp_path / "key"
    file.write_text("one")
    os.utime(file, ns=(1, 1))
    secret = Secret(file=file)
    assert secret.reveal() == "one"

    if kept == "size and inode":
        file.write_text("two")
        os.utime(file, ns=(2, 2))
    else:
        other = tmp_path / "other"
        other.write_text("two")
        os.utime(other, ns=(1, 1))
        other.replace(file)
    assert secret.reveal() == "two"


def test_a_file_that_did_not_change_is_not_read(tmp_path):
    file = tmp_path / "key"
    file.write_text("one")
    os.utime(file, ns=(1, 1))
    secret = Secret(file=file)
    secret.reveal()

    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert secret.reveal() == "one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hidden\nword", "has line breaks or control characters within"),
        (b"hidden\xff", "is not UTF-8 text"),
    ],
)
def test_a_file_without_a_secret_is_named_but_not_shown(tmp_path, content, message):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SecretError) as caught:
        Secret(file=file).reveal()

    assert str(caught.value) == f"the secret's file {file} {message}"
    assert caught.value.reason == "auth"
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_unreadable_file_does_not_keep_the_old_secret(tmp_path):
    file = tmp_path / "key"
    file.write_text("one")
    secret = Secret(file=file)
    secret.reveal()

    file.unlink()
    with pytest.raises(SecretError):
        secret.reveal()


def test_secrets_configured_the_same_way_are_equal(tmp_path):
    file = tmp_path / "key"
    file.write_text("a")

    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret(file=file) != Secret("a")
    assert len({Secret(file=file), Secret(file=file), Secret("a")}) == 2
