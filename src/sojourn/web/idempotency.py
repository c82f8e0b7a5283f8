"""What tells two requests apart, or says that they are one: the header Idempotency-Key, and a request's fingerprint.

Knows nothing of what is kept of requests, nor where.

Source: draft-ietf-httpapi-idempotency-key-header-07, sections 2.1 and 2.4.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from sojourn.web.problems import Kind, Refusal

_QUOTED: Final = re.compile(r'"([!#-\[\]-~]{1,255})"\Z')
_BARE: Final = re.compile(r"[A-Za-z0-9._~:-]{1,255}\Z")


def key_of(values: Sequence[str]) -> str | None:
    """Return the key in a request's Idempotency-Key headers, None if there is none.

    A string of structured fields is in quotes (section 2.1); keys without them are taken where nothing else is meant.
    Raises: Refusal.
    """
    if not values:
        return None
    text = values[0].strip()
    if len(values) == 1:
        if quoted := _QUOTED.match(text):
            return quoted[1]
        if _BARE.match(text):
            return text
    raise Refusal(Kind.BAD_KEY)


def fingerprint(*parts: str | bytes) -> bytes:
    """Return what two equal requests have in common."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()
