"""The port with the objects: what an S3 store answers to signed URLs."""

import asyncio
import base64
import hashlib
import hmac
import time
import urllib.error
import urllib.request
from dataclasses import replace
from urllib.parse import urlsplit

from .messages import Answer, Message, xml_error
from .port import Port, State
from .settings import Request

__all__ = ["KEY", "SECRET", "ObjectPort"]

KEY = SECRET = "testing"
SIGNED_FOR = 3600
"""Seconds for which daf_butler's server signs."""
STORE_TIMEOUT = 60.0
LAST_MODIFIED = "Wed, 25 Nov 2026 10:00:00 GMT"
EXPIRED = {
    "aws": (403, "AccessDenied", "Request has expired"),
    "gcs": (400, "ExpiredToken", "The provided token has expired."),
    "401": (401, "ExpiredToken", "The provided token has expired."),
}


class ObjectPort(Port):
    """Serves the objects of an S3 store, and keeps them in memory."""

    kind = "data"

    def __init__(self, state: State, store: str) -> None:
        """Serve the store at this URL."""
        super().__init__(state)
        self._store = store
        self._objects: dict[str, asyncio.Task[bytes | None]] = {}

    async def answer(self, message: Message, request: Request) -> Answer | None:
        fault = self.next_fault(urlsplit(message.target).path)
        request.fault = fault
        if fault and fault not in {"short", "expired"}:
            return await self.fault_answer(fault)
        refused = self._refused_expired() if fault == "expired" else self._refused(message)
        if refused is not None:
            return replace(refused, body=b"", length=len(refused.body)) if message.method == "HEAD" else refused
        content = await self._content(urlsplit(message.target).path)
        if content is None:
            return xml_error(404, "NoSuchKey", "The specified key does not exist.")
        answer = self._part(message, content)
        if message.method == "HEAD":
            return replace(answer, body=b"", length=len(answer.body))
        if fault == "short" or self.state.random.random() < self.state.settings.drop:
            request.fault = "short"
            return replace(answer, cut=True)
        return answer

    async def _content(self, path: str) -> bytes | None:
        """Return an object's bytes; requests that come at once wait for the same."""
        if path not in self._objects:
            self._objects[path] = asyncio.create_task(asyncio.to_thread(self._stored, path))
        content = await self._objects[path]
        if content is None:
            self._objects.pop(path, None)
        return content

    def _stored(self, path: str) -> bytes | None:
        # The store tells its owner from strangers by the presence of a signature; it checks none.
        owner = f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
        request = urllib.request.Request(self._store + path, headers={"Authorization": owner})
        try:
            with urllib.request.urlopen(request, timeout=STORE_TIMEOUT) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError:
            return None

    def _part(self, message: Message, content: bytes) -> Answer:
        """Return the bytes of the range that is asked for; several ranges get the whole file, as from S3."""
        settings, size = self.state.settings, len(content)
        etag = f'"{hashlib.md5(message.path.encode(), usedforsecurity=False).hexdigest()}"'
        headers = {"ETag": etag, "Last-Modified": LAST_MODIFIED, "Content-Type": "binary/octet-stream"}
        if settings.no_ranges:
            return Answer(200, content, headers)
        headers["Accept-Ranges"] = "bytes"
        wanted = message.headers.get("range", "")
        if not wanted.startswith("bytes=") or "," in wanted:
            return Answer(200, content, headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
        if start >= size:
            return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
        return Answer(
            206, memoryview(content)[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        )

    def _refused(self, message: Message) -> Answer | None:
        """Return the answer to a request that may not see the object."""
        settings, query = self.state.settings, message.query
        authorization = message.headers.get("authorization", "")
        signed = "Signature" in query
        if signed and authorization:
            return xml_error(400, "InvalidArgument", "Only one auth mechanism allowed")
        if not signed and not authorization.startswith("AWS4"):  # the Butler server itself signs in a header
            return xml_error(403, "AccessDenied", "Access Denied")
        if signed and settings.check_signatures and query["Signature"] != _signature(message):
            return xml_error(403, "SignatureDoesNotMatch", "The request signature does not match.")
        if signed and time.time() > self._end(int(query.get("Expires", 0))):
            return self._refused_expired()
        if settings.deleted and settings.deleted in message.path:
            return xml_error(403, "AccessDenied", "Access Denied")
        return None

    def _end(self, expires: int) -> float:
        """Return when a URL that is signed until ``expires`` ends, in seconds since 1970."""
        after = self.state.settings.expire_after
        return expires - SIGNED_FOR + after if after else expires

    def _refused_expired(self) -> Answer:
        return xml_error(*EXPIRED[self.state.settings.expired])


def _signature(message: Message) -> str:
    """Return the signature of a request, version 2 (docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html)."""
    expires, path = message.query.get("Expires", ""), urlsplit(message.target).path
    signed = hmac.new(SECRET.encode(), f"{message.method}\n\n\n{expires}\n{path}".encode(), hashlib.sha1)
    return base64.b64encode(signed.digest()).decode()
