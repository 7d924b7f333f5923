"""Signs a report and checks the signature: HMAC-SHA256 with a key that both sides hold.

The signature stands in the report itself, in an attribute `data-signature`, and again in a file beside it. It covers
the report's bytes with 64 zeros in place of the signature.
"""

import hashlib
import hmac
import re

ATTRIBUTE = 'data-signature="%s"'
SLOT = re.compile(rb'data-signature="([0-9a-f]{64})"')
UNSIGNED = "0" * 64

KEY_BYTES_MIN = 16


class BadKey(Exception):
    """The key cannot sign anything that is worth checking."""


class BadSignature(Exception):
    """The report is not what the holder of the key signed."""


def read_key(path):
    key = path.read_bytes()
    if len(key) < KEY_BYTES_MIN:
        raise BadKey(f"{path}: {len(key)} bytes; a signing key needs at least {KEY_BYTES_MIN}")
    return key


def slot():
    """What a page writes where its signature will stand."""
    return ATTRIBUTE % UNSIGNED


def sign(page, key):
    """Returns the page with its signature in place, and the signature."""
    if len(SLOT.findall(page.encode())) != 1:
        raise ValueError("the page must hold exactly one signature slot")
    signature = digest(page.encode(), key)
    return page.replace(slot(), ATTRIBUTE % signature), signature


def check(page, key, beside=None):
    """Raises BadSignature unless `page` (bytes) is signed with `key`; `beside` is the text of the `.sig` file."""
    written = SLOT.findall(page)
    if len(written) != 1:
        raise BadSignature(f"the report holds {len(written)} signatures instead of one")
    expected = digest(SLOT.sub(slot().encode(), page), key)
    if not hmac.compare_digest(written[0].decode(), expected):
        raise BadSignature("the signature in the report does not fit its content and this key")
    if beside is not None and beside.split()[:1] != [expected]:
        raise BadSignature("the signature file does not fit the report")
    return expected


def digest(page, key):
    return hmac.new(key, page, hashlib.sha256).hexdigest()
