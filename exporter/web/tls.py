"""TLS of the exporter's own pages."""

import ipaddress
import ssl
from collections.abc import Iterator
from typing import Any

from exporter.config import ConfigError, ConfigProblem
from exporter.web.config import CIPHER_SUITES, TlsServer

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def server_context(settings: TlsServer) -> ssl.SSLContext:
    """Return the TLS context of a web config, with the current content of its files. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = VERSIONS[settings.min_version], VERSIONS[settings.max_version]
    if not settings.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if problems := list(_load(context, settings)):
        raise ConfigError(problems)
    context.verify_mode = VERIFY[settings.client_auth_type]
    if settings.client_allowed_sans is not None:
        context.sslobject_class = _connection_class(frozenset(settings.client_allowed_sans))
    return context


def _load(context: ssl.SSLContext, settings: TlsServer) -> Iterator[ConfigProblem]:
    """Load certificates, keys and cipher suites. Yield what cannot be used."""
    try:
        # Without a callback OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: "")
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            yield ConfigProblem("tls_server_config.key_file", "is not the key of cert_file")
        else:
            message = "cert_file and key_file do not contain a usable certificate and key"
            yield ConfigProblem("tls_server_config", _reason(error, message))
    try:
        if settings.client_ca_file:
            context.load_verify_locations(settings.client_ca_file)
    except OSError as error:
        yield ConfigProblem("tls_server_config.client_ca_file", _reason(error, "does not contain a usable certificate"))
    try:
        if suites := [CIPHER_SUITES[name] for name in settings.cipher_suites if CIPHER_SUITES[name]]:
            context.set_ciphers(":".join(suites))
    except ssl.SSLError:
        yield ConfigProblem("tls_server_config.cipher_suites", "this machine's OpenSSL supports none of them")


def _reason(error: OSError, unusable: str) -> str:
    return unusable if isinstance(error, ssl.SSLError) else f"the file cannot be read: {error.strerror}"


def _connection_class(allowed: frozenset[str]) -> type[ssl.SSLObject]:
    """Return a class of connections that accept only clients whose certificate has one of these names."""

    class RestrictedConnection(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            if not allowed & alternative_names(self.getpeercert() or {}):
                raise ssl.SSLCertVerificationError("the client's certificate has no allowed name")

    return RestrictedConnection


def alternative_names(certificate: Any) -> frozenset[str]:  # noqa: ANN401  # as `getpeercert` has it
    """Return the subject alternative names of a certificate, with IP addresses in their shortest form."""
    names = certificate.get("subjectAltName", ())
    return frozenset(_shortest_address(text.strip()) if kind == "IP Address" else text for kind, text in names)


def _shortest_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text
