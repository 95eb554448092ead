"""Where the objects lie: what ``s3://bucket/prefix?endpoint=URL&region=NAME`` says."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from imgsim.core.errors import SettingsError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9._-]{1,255}/){0,8}")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_PARAMETERS = ("endpoint", "region")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a beginning of keys in it (``prefix``: empty, or ending in ``/``)."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""  # empty: AWS
    region: str = ""  # empty: what the AWS variables name, else us-east-1

    @classmethod
    def parse(cls, url: str, setting: str = "objects.url") -> Self:
        """``SettingsError`` for what is no such URL; it names the `setting`."""
        if "@" in url:  # and is not shown: what stands before it may be a secret
            raise SettingsError(
                f"The setting {setting} holds an '@'. S3 credentials belong into the environment variables "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        parts = urlsplit(url)
        if not _BUCKET.fullmatch(parts.netloc):
            raise SettingsError(
                f"The setting {setting} must be s3://bucket[/prefix][?endpoint=URL&region=NAME], the bucket of 3 to "
                f"63 of a-z, 0-9, '.' and '-' (got the bucket {parts.netloc!r})."
            )
        prefix = f"{parts.path.strip('/')}/".lstrip("/")
        if not _PREFIX.fullmatch(prefix) or parts.fragment:
            raise SettingsError(
                f"The prefix in the setting {setting} must be of at most 8 parts of A-Z, a-z, 0-9, '.', '_' and '-', "
                f"separated by '/' (got {prefix!r})."
            )
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(given.keys() - set(_PARAMETERS)):
            raise SettingsError(
                f"The setting {setting} has no parameter {unknown[0]!r}. Valid: {', '.join(_PARAMETERS)}."
            )
        region = given.get("region", "")
        if region and not _REGION.fullmatch(region):
            raise SettingsError(f"The region in the setting {setting} is no name of a region (got {region!r}).")
        return cls(parts.netloc, prefix, check_endpoint(setting, given.get("endpoint", "")), region)


def check_endpoint(setting: str, url: str) -> str:
    """`url` as botocore wants it, or empty; ``SettingsError`` for what is not ``http(s)://host[:port]``."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and "@" not in url
    except ValueError:  # a port that is none
        usable = False
    if url and (not usable or parts.path.strip("/") or parts.query or parts.fragment):
        raise SettingsError(f"The S3 endpoint in the setting {setting} must be http(s)://host[:port].")
    return url.rstrip("/")
