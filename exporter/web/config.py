"""The web config file: TLS, headers and users of the exporter's own pages.

The format is defined by the exporter toolkit:
https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import bcrypt
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from exporter.config.config import read_text
from exporter.config.document import parse
from exporter.config.problems import ConfigError, ConfigProblem, validated, validation_error
from exporter.config.secret import Secret
from exporter.config.section import Section
from exporter.config.values import ReadableFile, RequiredFile, Text

CIPHER_SUITES: Mapping[str, str] = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""OpenSSL's name of each cipher suite, by Go's name. TLS 1.3 suites have "": as in Go, they are always enabled."""

HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""Headers that can be set, each with its allowed values. () means any value."""

PATHS = ("cert_file", "key_file", "client_ca_file")
"""Keys of `tls_server_config` that are paths. They are relative to the folder of the web config file."""

UNSUPPORTED: Mapping[str, str] = {
    "cert": "is not supported: use cert_file",
    "key": "is not supported: use key_file",
    "client_ca": "is not supported: use client_ca_file",
    "curve_preferences": "is not supported: OpenSSL's own order is used",
    "rate_limit": "is not supported: failed sign-ins are limited without it",
}
"""Keys of the format that are refused, with the reason. If one were ignored, users would rely on it in vain."""

UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
"""Values of `client_auth_type` that accept any certificate."""

MAX_COST = 18
"""Maximum cost of a bcrypt hash. With a higher cost, a sign-in would take minutes of CPU."""

_BCRYPT = re.compile(r"\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_LIKE_BCRYPT = re.compile(r"\$2[a-z]?\$[^\s,;]*")


class _WebSection(Section):
    @classmethod
    def _unknown_key_message(cls, key: str) -> str:
        return UNSUPPORTED.get(key) or super()._unknown_key_message(key)


def _verifying(client_auth_type: object) -> object:
    if client_auth_type in UNVERIFIED:
        raise validation_error(
            "is not supported: it accepts any certificate unverified; use RequireAndVerifyClientCert"
        )
    return client_auth_type


ClientAuth = Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"]
Version = Literal["TLS12", "TLS13"]


class TlsServer(_WebSection):
    """Settings of HTTPS."""

    cert_file: RequiredFile
    """Certificate of the exporter with its intermediate certificates, PEM."""
    key_file: RequiredFile
    """Its key, PEM, without a passphrase."""
    client_auth_type: Annotated[ClientAuth, BeforeValidator(_verifying)] = "NoClientCert"
    """Whether clients need a certificate."""
    client_ca_file: ReadableFile = ""
    """Certificate authorities of clients, PEM."""
    client_allowed_sans: tuple[Text, ...] | None = None
    """Names, addresses or URIs. A client's certificate must have at least one of them."""
    min_version: Version = "TLS12"
    """Oldest version of TLS."""
    max_version: Version = "TLS13"
    """Newest version of TLS."""
    cipher_suites: tuple[Text, ...] = ()
    """Cipher suites of TLS 1.2, by Go's names; empty for OpenSSL's default."""
    prefer_server_cipher_suites: bool = True
    """Whether the server chooses the cipher suite, not the client."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        """Yield an error for client certificates without a CA, and for impossible versions and cipher suites."""
        yield from _client_conflicts(values)
        if values.get("min_version") == "TLS13" and values.get("max_version") == "TLS12":
            yield validation_error("is older than min_version", "max_version")
        suites = values.get("cipher_suites", ())
        for index, suite in enumerate(suites):
            if suite not in CIPHER_SUITES:
                yield validation_error(f"must be one of {', '.join(CIPHER_SUITES)}", "cipher_suites", index)
        if suites and values.get("min_version") == "TLS12" and not any(map(CIPHER_SUITES.get, suites)):
            yield validation_error("has no cipher suite of TLS 1.2; add one or set min_version: TLS13", "cipher_suites")


def _client_conflicts(values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
    kind, ca_file, names = (values.get(key) for key in ("client_auth_type", "client_ca_file", "client_allowed_sans"))
    if kind == "NoClientCert" and ca_file:
        yield validation_error("needs client_auth_type: RequireAndVerifyClientCert", "client_ca_file")
    if kind not in (None, "NoClientCert") and ca_file == "":
        yield validation_error(f"is required with client_auth_type: {kind}", "client_ca_file")
    if kind not in (None, "RequireAndVerifyClientCert") and names is not None:
        yield validation_error("needs client_auth_type: RequireAndVerifyClientCert", "client_allowed_sans")
    if names == ():
        yield validation_error("must not be empty: no client could connect", "client_allowed_sans")


class HttpServer(_WebSection):
    """Settings of HTTP."""

    http2: bool = False
    """Must be false: only HTTP/1.1 is served."""
    headers: dict[str, str] = Field(default={})
    """Headers of every response; "" omits a header."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        """Yield an error for HTTP/2, for a header that cannot be set, and for a value that it cannot have."""
        if values.get("http2"):
            yield validation_error("is not supported: set false or omit it", "http2")
        for name, value in values.get("headers", {}).items():
            allowed = HEADERS.get(name, ())
            if name not in HEADERS:
                yield validation_error(f"cannot be set; allowed: {', '.join(HEADERS)}", "headers", name)
            elif allowed and value and value not in allowed:
                yield validation_error(f"must be {' or '.join(allowed)}", "headers", name)
            elif not value.isascii() or (value and not value.isprintable()):
                yield validation_error("must be printable ASCII on one line", "headers", name)


def _bcrypt_hash(secret: Secret) -> Secret:
    match = _BCRYPT.fullmatch(secret.reveal())
    if match is None or not _accepted_by_bcrypt(match):
        raise validation_error("must be a bcrypt hash, as `htpasswd -nBC 10 NAME` prints it after the colon")
    if not 4 <= int(match[1]) <= MAX_COST:
        raise validation_error(f"must have a cost from 4 to {MAX_COST}")
    return secret


def _accepted_by_bcrypt(match: re.Match[str]) -> bool:
    # The lowest cost makes this fast.
    try:
        bcrypt.checkpw(b"", f"{match[0][:4]}04{match[0][6:]}".encode())
    except ValueError:
        return False
    return True


class WebConfig(_WebSection):
    """A web config file."""

    tls_server_config: TlsServer | None = None
    """HTTPS; without it, plain HTTP."""
    http_server_config: HttpServer = HttpServer()
    """HTTP."""
    basic_auth_users: dict[str, Annotated[Secret, AfterValidator(_bcrypt_hash)]] = Field(default={})
    """Bcrypt hashes of passwords by user; empty for no basic auth."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        """Yield an error for a user's name that clients cannot send."""
        for name in values.get("basic_auth_users", {}):
            if not name or ":" in name or not name.isprintable():
                yield validation_error("must be printable and have no colon", "basic_auth_users", name)


def load_web(path: Path) -> WebConfig:
    """Return the web config in a file. Raises ConfigError with all its problems."""
    return web_config(path, read_text(path))


def web_config(path: Path, text: str) -> WebConfig:
    """Return the web config in the text of a file. Raises ConfigError with all its problems."""
    try:
        # The format has no variables, and hashes contain `$`.
        data, problems, _ = parse(text, None)
    except ConfigError as error:
        raise ConfigError(_masked(error.problems)) from None
    config = validated(WebConfig, _with_absolute_paths(data, path.parent), problems)
    if config is None or problems:
        raise ConfigError(_masked(problems))
    return config


def _with_absolute_paths(data: Any, directory: Path) -> Any:  # noqa: ANN401  # parsed YAML
    if not isinstance(data, dict):
        return data
    if isinstance(tls := data.get("tls_server_config"), dict):
        paths = {key: str(directory / tls[key]) for key in PATHS if isinstance(tls.get(key), str) and tls[key]}
        return {**data, "tls_server_config": {**tls, **paths}}
    return data


def _masked(problems: list[ConfigProblem]) -> list[ConfigProblem]:
    # If somebody wrote a hash where a user's name belongs, it would be part of the path.
    return [ConfigProblem(*(_LIKE_BCRYPT.sub("…", text) for text in problem)) for problem in problems]
