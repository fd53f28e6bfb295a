"""What benchmarks/isolation.py mounts in the gateway's own process: the tools of `_proxy_backend.py`.

Rule: nothing of ours is in it.
"""

from __future__ import annotations

from benchmarks._proxy_backend import backend

server = backend()
