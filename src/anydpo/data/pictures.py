"""Pictures in whatever form rows hold them, as URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from anydpo.data.dialect import BadRow

# What stands at the beginning of an image file, and the type it tells.
MAGIC = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"BM": "image/bmp",
}


def picture_uri(picture: object, path: object = None) -> str:
    """Return a picture given as a path, as bytes, or as a table's `{bytes, path}`; embedded bytes become a data URI."""
    if isinstance(picture, str) and picture:
        return picture
    content = picture.get("bytes") if isinstance(picture, Mapping) else picture
    if isinstance(content, (bytes, bytearray)) and content:
        kind = next((kind for magic, kind in MAGIC.items() if content.startswith(magic)), "application/octet-stream")
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"
    given = picture.get("path") if isinstance(picture, Mapping) else None
    for named in (given, path):
        if isinstance(named, str) and named:
            return named
    raise BadRow("image_count_mismatch", "an image holds neither bytes nor a path")
