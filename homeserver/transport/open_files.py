"""How many files the process may have open: every connection is one."""

import logging
import resource

logger = logging.getLogger(__name__)

_ENOUGH = 4_096


def raise_open_files() -> None:
    """Use all that the system grants; say what to do if that is little."""
    limit, granted = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, granted))
        limit = granted
    except (OSError, ValueError):  # not even as much as it says
        pass
    if limit != resource.RLIM_INFINITY and limit < _ENOUGH:
        logger.warning(
            "Only %d files can be open at once, and every connection is one: raise the limit to"
            " 65536 (systemd: LimitNOFILE=65536; Docker: --ulimit nofile=65536; shell: ulimit -n)",
            limit,
        )
