"""How many connections the process may have open."""

from __future__ import annotations

from contextlib import suppress

# File descriptors for everything else: models, the index, downloads, libraries.
OTHERS = 256


def allow_descriptors(connections: int) -> int:
    """Raise the process's limit of file descriptors for so many connections, as far as the system allows it.

    Returns how many connections there may be.
    """
    try:
        import resource
    except ImportError:
        return connections
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHERS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, most))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return connections
    return min(connections, max(soft - OTHERS, soft // 2, 1))
