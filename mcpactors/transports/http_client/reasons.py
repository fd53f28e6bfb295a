"""Why there is no connection to a backend, or none any more, in words that say what to do.

Rule: functions of what came; nothing is sent, and nothing is repeated of the bytes that came.
"""

from __future__ import annotations

import os
import ssl
from errno import errorcode
from typing import Any, Final

__all__ = ["reason_of", "speaks_tls"]

_UNKNOWN_AUTHORITY: Final = (18, 19, 20, 21)  # X509_V_ERR_*: signed by itself, or by nobody that is known
_NO_TLS: Final = "WRONG_VERSION_NUMBER"  # what OpenSSL calls an answer that is none of TLS


def reason_of(error: BaseException, plain: str = "http://") -> str:
    """What the system said, out of whatever it is wrapped in: `Connection refused`. `plain`: how an address begins
    without TLS."""
    seen: Any = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            advice = "; trust it by `ca` (in Python: ssl_context=)" if seen.verify_code in _UNKNOWN_AUTHORITY else ""
            return f"its certificate is not accepted: {seen.verify_message}{advice}"
        if isinstance(seen, ssl.SSLEOFError):
            return f"it hung up before TLS began; if it does not speak it, try {plain}"
        if isinstance(seen, ssl.SSLError):
            no_tls = seen.reason == _NO_TLS
            return f"it does not speak TLS; try {plain}" if no_tls else f"TLS failed: {seen.reason or seen}"
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno in errorcode:
            return os.strerror(seen.errno)  # trio's own words have the address in them, which is said elsewhere
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.exceptions[0] if isinstance(seen, BaseExceptionGroup) else seen.__cause__ or seen.__context__
    return str(error) or type(error).__name__


def speaks_tls(data: bytes | bytearray) -> bool:
    """Whether what answers plain text begins as an alert of TLS does (RFC 8446 5.1). Many just hang up instead."""
    return data.startswith(b"\x15\x03")
