"""Signed URLs and tokens: known for what they are, and taken out of words, tracebacks and logs."""

import logging
import traceback
from pathlib import Path

import pytest
import requests
import urllib3

from lsstcutouts.errors.secrets import expiry_of, hide_secrets, is_signed, without_query, without_secrets

from ..support.server import Store, serving

V2 = "https://s3.example/b/k?AWSAccessKeyId=AKIA&Signature=geheim%3D&Expires=1764147600"
V4 = (
    "https://s3.example/b/k?X-Amz-Date=20251126T080000Z&X-Amz-Expires=3600&X-Amz-Signature=geheim&X-Amz-Credential=AKIA"
)
GOOGLE = "https://storage.example/b/k?X-Goog-Date=20251126T080000Z&X-Goog-Expires=3600&X-Goog-Signature=geheim"
AZURE = "https://x.blob.example/b/k?sv=2024-01-01&se=2025-11-26T09:00:00Z&sr=b&sig=geheim%2F"
SIGNED = [V2, V4, GOOGLE, AZURE]


@pytest.mark.parametrize("url", SIGNED)
def test_signed_urls_are_known_with_their_expiry(url: str) -> None:
    assert is_signed(url)
    assert expiry_of(url) == 1764147600  # 2025-11-26 09:00 UTC, by `date -d @1764147600`
    assert "geheim" not in without_query(url) + without_secrets(url)
    assert without_query(url) == url.partition("?")[0]


@pytest.mark.parametrize(
    ("url", "expiry"),
    [
        ("/data/coadd.fits", None),
        ("/data/what?Signature.fits", None),
        ("https://host/b/k", None),
        ("https://host/b/k?version=3", None),
        ("s3://bucket/key", None),
        ("https://host/b/k?Expires=soon&Signature=", None),
    ],
)
def test_other_uris_are_not_signed(url: str, expiry: float | None) -> None:
    assert not is_signed(url)
    assert expiry_of(url) is expiry


@pytest.mark.parametrize(
    "text",
    [
        *(f"HTTPError: 403 for url: {url}" for url in SIGNED),
        *(f'http://host:80 "GET /b/k?{url.partition("?")[2]} HTTP/1.1" 403 None' for url in SIGNED),
        f"Max retries exceeded with url: /b/k?{V2.partition('?')[2]} (Caused by X)",
        "Authorization: Bearer geheim",
        "{'Authorization': 'Bearer geheim'}",
        "StringToSign:\nAWS4\nSignature:\ngeheim",
        "x-amz-security-token:geheim",
        "Credential=AKIA/x, SignedHeaders=host, Signature=geheim",
        "?redirect=https%3A%2F%2Fhost%2F%3FX-Amz-Signature%3Dgeheim",
    ],
)
def test_texts_lose_their_secrets_and_keep_the_rest(text: str) -> None:
    shown = without_secrets(text)
    assert "geheim" not in shown
    for word in ("HTTPError", "GET /b/k", "403", "(Caused by X)", "SignedHeaders=host"):
        assert (word in shown) == (word in text)


@pytest.mark.parametrize("text", ["no file at /a/b?", "what? nothing", "policy=mask", "a bearer token is needed", ""])
def test_other_texts_stay(text: str) -> None:
    assert without_secrets(text) == text


def test_a_chain_of_exceptions_loses_its_secrets() -> None:
    """Causes, contexts, and what urllib3 and requests wrap, circles among them."""
    inner = requests.HTTPError(f"403 for {V2}")
    wrapped = requests.ConnectionError(urllib3.exceptions.MaxRetryError(None, f"/b/k?{V4.partition('?')[2]}", inner))  # type: ignore[arg-type]
    try:
        try:
            raise wrapped
        except requests.ConnectionError as error:
            raise FileNotFoundError(f"Unable to read {GOOGLE}") from error
    except FileNotFoundError as error:
        inner.__context__ = error
        hide_secrets(error)
        shown = "".join(traceback.format_exception(error))
    assert "geheim" not in shown
    assert "https://s3.example/b/k?..." in shown


def test_the_clients_log_no_signature(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with serving(tmp_path, Store) as server, caplog.at_level(logging.DEBUG):
        requests.get(f"{server.url}/file?{V2.partition('?')[2]}", timeout=5)
        logging.getLogger("botocore.auth").debug("Signature:\n%s", "geheim")
    assert "geheim" not in caplog.text
    assert '"GET /file?... HTTP/1.1" 200' in caplog.text
