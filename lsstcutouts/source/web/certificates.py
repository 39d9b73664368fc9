"""Certificates of servers and of this client, by the variables and settings of ``lsst.resources`` and ``requests``."""

import contextlib
import os
import ssl
from pathlib import Path

from .webdav import WebDavSettings

__all__ = ["CERTIFICATE_VARIABLES", "trusted_certificates"]

CERTIFICATE_VARIABLES = (
    "LSST_HTTP_CACERT_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "LSST_HTTP_AUTH_CLIENT_CERT",
    "LSST_HTTP_AUTH_CLIENT_KEY",
    "X509_USER_PROXY",
)
"""Variables of ``lsst.resources`` and ``requests`` that name certificates: of the servers, and of this client."""


def trusted_certificates(webdav: WebDavSettings) -> ssl.SSLContext:
    """Return whose certificates are trusted, and the certificate of this client, as ``lsst.resources`` would.

    Parameters
    ----------
    webdav
        What is set for the server itself, before the variables.
    """
    *bundles, certificate, key, proxy = (os.environ.get(variable) for variable in CERTIFICATE_VARIABLES)
    if webdav.certificate:
        certificate, key = webdav.certificate, webdav.key
    bundle = next(filter(None, (webdav.authorities, *bundles)), None)
    folder = bundle if bundle is not None and Path(bundle).is_dir() else None
    context = ssl.create_default_context(cafile=None if folder else bundle, capath=folder)
    if bundle is None:
        with contextlib.suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())  # OpenSSL of a Python from python.org knows none
    if not (certificate and key):
        certificate = key = proxy
    if certificate and Path(certificate).exists():
        context.load_cert_chain(certificate, key)
    return context
