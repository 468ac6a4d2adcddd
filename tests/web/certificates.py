"""Certificates made for a test, and web config files that name them."""

import ssl
from datetime import UTC, datetime, timedelta

import bcrypt
import trustme

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
PASSWORD = "correct horse"
SALT = "saltThatIsAlwaysTheSue"  # constant, because names of tests contain it


def bcrypt_hash(password=PASSWORD, cost=4):
    return bcrypt.hashpw(password.encode(), f"$2b${cost:02}${SALT}".encode()).decode()


def write_certificate(folder, *, authority=AUTHORITY, name="localhost", stem="server", extra_keys=""):
    """Write a certificate and its key. Return lines of a web config that use them."""
    certificate = authority.issue_cert(name, "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / f"{stem}.pem")
    certificate.private_key_pem.write_to_path(folder / f"{stem}.key")
    return f"tls_server_config: {{cert_file: {stem}.pem, key_file: {stem}.key{extra_keys}}}\n"


def client_context(authority=AUTHORITY, client=None):
    """Return a client's TLS context that trusts an authority and presents this client certificate."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    return context


def client_certificate(authority=AUTHORITY, name="prometheus.example.com", **more):
    return authority.issue_cert(name, **more)


def expired_certificate(authority=AUTHORITY):
    past = datetime.now(UTC) - timedelta(days=1)
    return client_certificate(authority, not_before=past - timedelta(days=1), not_after=past)
