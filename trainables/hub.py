"""Whether the model hub answers, asked once and briefly: its own client retries for up to a minute."""

from __future__ import annotations

from functools import cache

PATIENCE_S = 5.0


@cache
def hub_reachable() -> bool:
    """True where the hub (HF_ENDPOINT) answers within five seconds; False under HF_HUB_OFFLINE, unasked.

    The answer is kept for the life of the process.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        return bool(get_session().head(constants.ENDPOINT, timeout=PATIENCE_S).status_code < 500)
    except Exception:  # its HTTP library has changed twice, and each brings its own tree of errors
        return False
