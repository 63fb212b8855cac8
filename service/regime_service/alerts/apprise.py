"""A hundred other ways (ntfy, Pushover, Discord, Matrix, SMS, ...), by the library apprise: `regimegate[alerts]`.

The address says which: https://github.com/caronc/apprise lists them, `ntfys://my-topic` is one. It usually holds a
secret, so it comes from a variable or a file. apprise waits for the receiver and keeps no queue, which is why it stands
behind our outbox like any other channel, and it says yes or no only: what is refused for good looks like what may work
later, is tried until its time is over, and is listed then.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import Any

from regime.errors import OperatorError
from regime_service.alerts import DELIVERED, Alert, ChannelOptions, Delivery, Secrets, plain_text, subject


class Options(ChannelOptions, frozen=True, kw_only=True):
    """Anything apprise knows."""

    url_env: str = ""
    """Environment variable that holds apprise's address."""
    url_file: str = ""
    """File that holds it."""

    def __post_init__(self) -> None:
        if not (self.url_env or self.url_file):
            raise ValueError("it needs `url_env` or `url_file`: apprise's addresses hold secrets")


class Apprise:
    OPTIONS = Options
    batch_max = 10

    def __init__(self, options: Options, secrets: Secrets) -> None:
        try:
            import apprise
        except ImportError:
            raise OperatorError("apprise is not installed; `pip install 'regimegate[alerts]'` brings it") from None
        # Log lines of its own, and of the library below it, repeat addresses. What became of a try is said by us.
        for name in ("apprise", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._library: Any = apprise
        self._sender = apprise.Apprise()
        if not self._sender.add(secrets.need("url")):
            raise OperatorError("apprise does not understand the address; its documentation lists what it knows")
        self._busy: threading.Thread | None = None

    def send(self, alerts: Sequence[Alert], *, within_s: float) -> Delivery:
        # It has time-outs, but not for all of a try. A try that outlived its time is left alone, and nothing is sent
        # beside it: it may still arrive.
        if self._busy is not None and self._busy.is_alive():
            return Delivery("later", "the try before this one still waits for the receiver")
        kind = self._library.NotifyType
        title, body = subject(alerts), plain_text(alerts, 10_000)
        mood = kind.SUCCESS if alerts[-1].resolved else kind.WARNING
        done: list[bool] = []

        def notify() -> None:
            with contextlib.suppress(Exception):  # A plugin of the hundred that fails is one that did not deliver.
                done.append(bool(self._sender.notify(title=title, body=body, body_format="text", notify_type=mood)))

        self._busy = threading.Thread(target=notify, name="apprise", daemon=True)
        self._busy.start()
        self._busy.join(within_s)
        if self._busy.is_alive():
            return Delivery("later", f"the receiver did not answer within {within_s:g} s")
        return DELIVERED if done and done[0] else Delivery("later", "apprise could not deliver it; it does not say why")


__plugin__ = Apprise
