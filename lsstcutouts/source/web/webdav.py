"""Settings of WebDAV servers, from the file that ``lsst.resources`` reads: credentials and certificates for each server."""

import os
from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError
from ..access import origin_of

__all__ = ["WebDavSettings", "webdav_settings"]

_VARIABLE = "LSST_RESOURCES_WEBDAV_CONFIG"


@dataclass(frozen=True, slots=True)
class WebDavSettings:
    """What is used with one server.

    Attributes
    ----------
    authorities
        File or folder with the certificates that are trusted; an empty string for those of other variables, as below.
    certificate, key
        Files with the certificate of this client and its key.
    token, user, password
        Credentials, or files that hold them.
    """

    authorities: str = ""
    certificate: str = ""
    key: str = ""
    token: str = field(default="", repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def authorization(self) -> str:
        """Value of the header that grants access; an empty string if there is none."""
        if self.token:
            return f"Bearer {_content(self.token)}"
        if self.user and self.password:
            return f"Basic {b64encode(f'{_content(self.user)}:{_content(self.password)}'.encode()).decode()}"
        return ""


def webdav_settings(url: str) -> WebDavSettings:
    """Return the settings for the server of a URL, by whatever scheme the file and the URL name it.

    Raises
    ------
    ConfigurationError
        If the file cannot be read.
    """
    name, origin = os.environ.get(_VARIABLE, ""), origin_of(url)
    if not name or not origin.startswith("https://"):
        return WebDavSettings()
    path = Path(os.path.expandvars(name)).expanduser()
    try:
        return _settings_of(path, path.stat().st_mtime_ns).get(origin, WebDavSettings())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{_VARIABLE}={name} cannot be read: {error}; it must be a YAML list of servers, each with base_url"
        ) from error


@lru_cache(maxsize=4)
def _settings_of(path: Path, _changed: int) -> dict[str, WebDavSettings]:
    """Return the settings of a file by the origin of the server."""
    import yaml

    try:
        servers: list[dict[str, Any]] = yaml.safe_load(path.read_text()) or []
    except yaml.YAMLError:
        raise ValueError("it is not YAML") from None  # the error would show a part of the file, which can be a token
    found = {}
    for server in servers:
        value = {name: os.path.expandvars(text) for name, text in server.items() if isinstance(text, str)}
        certificate = value.get("user_cert", "")
        found[origin_of(value.get("base_url", ""))] = WebDavSettings(
            value.get("trusted_authorities", ""),
            certificate,
            value.get("user_key", certificate),
            value.get("token", ""),
            value.get("user_name", ""),
            value.get("user_password", ""),
        )
    return found


def _content(text: str) -> str:
    """Return the content of a file if the text is the path of one."""
    path = Path(text).expanduser()
    return path.read_text().strip() if text.startswith(("/", "~", ".")) and path.is_file() else text
