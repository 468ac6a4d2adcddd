"""Web config files: what is accepted, and how problems are reported."""

import re
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from exporter.config import ConfigError
from exporter.web.config import HEADERS, UNSUPPORTED, UNVERIFIED, load_web, web_config
from exporter.web.tls import alternative_names, server_context
from tests.web.certificates import AUTHORITY, bcrypt_hash, write_certificate


def tls_section(config) -> Any:
    return config.tls_server_config


HASH = bcrypt_hash()
SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
PROMTOOL = shutil.which("promtool")


def problems_of(folder, text):
    with pytest.raises(ConfigError) as caught:
        web_config(folder / "web.yaml", text)
    return list(map(str, caught.value.problems))


def tls_settings(folder, keys):
    """Returns TLS settings with these keys and the required ones."""
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    return web_config(folder / "web.yaml", write_certificate(folder, extra_keys=f", {keys}")).tls_server_config


def tls_problems(folder, keys):
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    return problems_of(folder, write_certificate(folder, extra_keys=f", {keys}"))


@pytest.mark.parametrize("text", ["", "# nothing\n", "tls_server_config:\nbasic_auth_users:\n"])
def test_an_empty_file_means_plain_http_without_passwords(tmp_path, text):
    config = web_config(tmp_path / "web.yaml", text)

    assert config.tls_server_config is None
    assert config.basic_auth_users == {}
    assert config.http_server_config.headers == {}


def test_every_supported_key_is_accepted(tmp_path):
    settings = tls_settings(
        tmp_path,
        "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem, client_allowed_sans: [a.example.com], "
        "min_version: TLS12, max_version: TLS13, prefer_server_cipher_suites: false, "
        "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256]",
    )
    context = server_context(settings)

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert (context.minimum_version, context.maximum_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert [each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"] == [
        "ECDHE-RSA-AES256-GCM-SHA384"
    ]


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "web.yaml").write_text(write_certificate(tmp_path / "sub"))

    assert tls_section(load_web(tmp_path / "sub" / "web.yaml")).cert_file == str(tmp_path / "sub" / "server.pem")


def test_defaults_are_safe(tmp_path):
    context = server_context(tls_settings(tmp_path, ""))

    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert context.options & ssl.OP_CIPHER_SERVER_PREFERENCE


def test_all_problems_are_reported_at_once(tmp_path):
    text = """
tls_server_config: {cert_file: nowhere.pem, min_version: TLS10, cipher_suites: [RC4], curve_preferences: [X25519]}
http_server_config: {http2: true, headers: {Server: x, X-Frame-Options: allow}}
basic_auth_users: {anna: plain, "be:rt": "%s"}
tls: {}
"""
    assert [problem.partition(":")[0] for problem in problems_of(tmp_path, text % HASH)] == [
        "tls_server_config.cert_file",
        "tls_server_config.key_file",
        "tls_server_config.min_version",
        "tls_server_config.curve_preferences",
        "tls_server_config.cipher_suites[0]",
        "http_server_config.http2",
        "http_server_config.headers.Server",
        "http_server_config.headers.X-Frame-Options",
        "basic_auth_users.anna",
        "tls",
    ]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("client_auth_type: RequireAnyClientCert", "client_auth_type: is not supported: it accepts any certificate"),
        ("client_auth_type: RequireClientCert", "client_auth_type: is not supported: it accepts any certificate"),
        ("client_auth_type: RequestClientCert", "client_auth_type: is not supported: it accepts any certificate"),
        ("client_auth_type: Always", "client_auth_type: must be 'NoClientCert'"),
        ("client_auth_type: RequireAndVerifyClientCert", "client_ca_file: is required with client_auth_type"),
        ("client_auth_type: VerifyClientCertIfGiven", "client_ca_file: is required with client_auth_type"),
        ("client_ca_file: ca.pem", "client_ca_file: needs client_auth_type"),
        ("client_ca_file: none.pem", "client_ca_file: the file cannot be read: No such file"),
        ("client_allowed_sans: [a]", "client_allowed_sans: needs client_auth_type: RequireAndVerifyClientCert"),
        (
            "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem, client_allowed_sans: []",
            "client_allowed_sans: must not be empty",
        ),
        ("min_version: TLS11", "min_version: must be 'TLS12' or 'TLS13'"),
        ("min_version: TLS13, max_version: TLS12", "max_version: is older than min_version"),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]", "cipher_suites: has no cipher suite of TLS 1.2"),
        ("cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]", "cipher_suites[0]: must be one of TLS_AES"),
        (
            "prefer_server_cipher_suites: 7",
            "prefer_server_cipher_suites: must be a valid boolean, unable to interpret input",
        ),
        ("cert_files: x", "cert_files: unknown key; did you mean cert_file?"),
        ("cert: x", "cert: is not supported: use cert_file"),
    ],
)
def test_problems_of_tls_settings_are_reported(tmp_path, keys, problem):
    assert tls_problems(tmp_path, keys)[0].startswith(f"tls_server_config.{problem}")


@pytest.mark.parametrize("key", ["cert_file", "key_file"])
def test_tls_needs_a_certificate_and_a_key(tmp_path, key):
    (tmp_path / "x").write_text("")
    assert f"tls_server_config.{key}: is required" in problems_of(tmp_path, "tls_server_config: {}\n")
    other = {"cert_file": "key_file", "key_file": "cert_file"}[key]
    assert problems_of(tmp_path, f"tls_server_config: {{{other}: x, {key}: ''}}\n") == [
        f"tls_server_config.{key}: must not be empty"
    ]


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ("Content-Security-Polic: x", "Content-Security-Polic: cannot be set; allowed: Content-Security-Policy"),
        ("X-Frame-Options: DENY", "X-Frame-Options: must be deny or sameorigin"),
        ("X-Content-Type-Options: sniff", "X-Content-Type-Options: must be nosniff"),
        ('X-XSS-Protection: "1\\r\\nSet-Cookie: a=b"', "X-XSS-Protection: must be printable ASCII on one line"),
        ("X-XSS-Protection: 1", "X-XSS-Protection: must be text; put it in quotes"),
    ],
)
def test_problems_of_headers_are_reported(tmp_path, headers, problem):
    (found_problem,) = problems_of(tmp_path, f"http_server_config: {{headers: {{{headers}}}}}\n")
    assert found_problem.startswith(f"http_server_config.headers.{problem}")


@pytest.mark.parametrize(
    "bad",
    ["secret", f"{HASH}=", HASH[:-1], HASH.replace("$04$", "$40$"), "$2b$10$" + "9" * 53, HASH.replace("2b", "1")],
)
def test_a_value_that_is_not_a_bcrypt_hash_is_refused_but_not_shown(tmp_path, bad):
    (found_problem,) = problems_of(tmp_path, f"basic_auth_users: {{anna: '{bad}'}}\n")

    assert found_problem.startswith("basic_auth_users.anna: ")
    assert bad not in found_problem


def test_hashes_of_every_kind_of_bcrypt_are_accepted(tmp_path):
    for kind in "aby":
        text = f"basic_auth_users: {{anna: '{HASH.replace('$2b$', f'$2{kind}$')}'}}\n"
        assert list(web_config(tmp_path / "w", text).basic_auth_users) == ["anna"]


def test_a_cost_that_would_take_minutes_is_refused(tmp_path):
    (found_problem,) = problems_of(tmp_path, f"basic_auth_users: {{anna: '{HASH.replace('$04$', '$19$')}'}}\n")
    assert found_problem == "basic_auth_users.anna: must have a cost from 4 to 18"


@pytest.mark.parametrize(
    "text",
    [
        f"basic_auth_users: {{'{HASH}': anna}}\n",
        f"'{HASH}': anna\n",
        f"basic_auth_users: {{'{HASH}': anna, '{HASH}': bert}}\n",
        f"basic_auth_users: ['{HASH}']\n",
        f"basic_auth_users: {{anna: '{HASH}\n",
        f"basic_auth_users: {{anna: *{HASH}}}\n",
    ],
)
def test_a_hash_in_a_wrong_place_is_not_repeated(tmp_path, text):
    problems = problems_of(tmp_path, text)

    assert problems
    assert HASH[7:] not in "".join(problems)


def test_a_config_never_shows_hashes(tmp_path):
    config = web_config(tmp_path / "w", f"basic_auth_users: {{anna: '{HASH}'}}\n")

    assert HASH not in repr(config) + str(config) + config.model_dump_json()


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_unsupported_keys_are_refused_with_advice(tmp_path, key):
    at_top = key == "rate_limit"
    text = f"{key}: x\n" if at_top else write_certificate(tmp_path, extra_keys=f", {key}: x")
    path = key if at_top else f"tls_server_config.{key}"

    assert problems_of(tmp_path, text) == [f"{path}: {UNSUPPORTED[key]}"]


def test_a_key_of_another_certificate_is_reported(tmp_path):
    text = write_certificate(tmp_path)
    AUTHORITY.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "server.key")

    with pytest.raises(ConfigError, match="key_file: is not the key of cert_file"):
        server_context(tls_section(web_config(tmp_path / "w", text)))


def test_files_without_certificates_are_reported_together(tmp_path):
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    text = write_certificate(tmp_path, extra_keys=", client_ca_file: ca.pem, client_auth_type: VerifyClientCertIfGiven")
    (tmp_path / "server.pem").write_text("x")
    (tmp_path / "ca.pem").write_text("x")

    with pytest.raises(ConfigError) as caught:
        server_context(tls_section(web_config(tmp_path / "w", text)))
    assert [problem.path for problem in caught.value.problems] == [
        "tls_server_config",
        "tls_server_config.client_ca_file",
    ]


def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(tmp_path):
    text = write_certificate(tmp_path)
    key = serialization.load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"passphrase")
    (tmp_path / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked),
    )

    with pytest.raises(ConfigError, match="do not contain a usable certificate and key"):
        server_context(tls_section(web_config(tmp_path / "w", text)))


def test_all_kinds_of_alternative_names_are_accepted():
    names = (("DNS", "a.b"), ("IP Address", "0:0:0:0:0:0:0:1\n"), ("URI", "spiffe://x"), ("email", "a@b"))

    assert alternative_names({"subjectAltName": names}) == {"a.b", "::1", "spiffe://x", "a@b"}
    assert alternative_names({}) == frozenset()


def documented_example():
    """The example in the documentation."""
    return re.findall(r"```yaml\n(tls_server_config:.*?)```", SECURITY.read_text(), re.DOTALL)[0]


def write_documented_example(folder):
    write_certificate(folder)
    AUTHORITY.cert_pem.write_to_path(folder / "clients-ca.pem")
    (folder / "web.yaml").write_text(documented_example())
    return folder / "web.yaml"


def test_the_documented_example_has_every_key_and_is_valid(tmp_path):
    config = load_web(write_documented_example(tmp_path))

    assert server_context(tls_section(config)).verify_mode is ssl.CERT_REQUIRED
    for section in (config, tls_section(config), config.http_server_config):
        assert section.model_fields_set == set(type(section).model_fields)
    assert set(config.http_server_config.headers) == set(HEADERS)


def test_the_documentation_names_what_is_not_supported():
    text = SECURITY.read_text()

    assert [key for key in (*UNSUPPORTED, *UNVERIFIED[:2]) if f"`{key}" not in text] == []


@pytest.mark.e2e
@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_accepts_the_documented_example(tmp_path):
    file = write_documented_example(tmp_path)
    newer = re.compile("  client_allowed_sans.*\n")  # older versions do not know the key
    file.write_text(newer.sub("", file.read_text()))
    checked = subprocess.run([str(PROMTOOL), "check", "web-config", file], capture_output=True, text=True, check=False)  # noqa: S603  # ours

    assert checked.returncode == 0, checked.stderr
