"""How a command of ours asks the running service, by its own interface and with the key of the environment."""

from __future__ import annotations

import http.client
import json
from typing import Any

from regime.errors import OperatorError
from regime_service.settings import Settings, own_key


def ask(settings: Settings, method: str, path: str, body: bytes | None) -> Any:
    """Return the service's answer to one request, decoded.

    Raises `ConnectionRefusedError` where none runs, `OperatorError` where it refuses or what answers is not ours.
    """
    where = f"{settings.server.host}:{settings.server.port}"
    connection = http.client.HTTPConnection(settings.server.host, settings.server.port, timeout=30)
    try:
        key = own_key()
        bearer = {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request(method, path, body, {"Content-Type": "application/json", **bearer})
        response = connection.getresponse()
        status, raw = response.status, response.read()
    except ConnectionRefusedError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise OperatorError(f"the service at {where} did not answer: {error}; nothing is known to be changed") from None
    finally:
        connection.close()
    try:
        answer = json.loads(raw)
        detail = answer.get("detail", "")
    except (ValueError, AttributeError):
        raise OperatorError(f"what answers at {where} is not regimegate; nothing was changed") from None
    if status in (401, 403):
        raise OperatorError(
            f"the service at {where} is locked: {detail} This command takes an admin key from the environment "
            "variable REGIME_KEY"
        )
    if status != 200:
        raise OperatorError(f"the service at {where} answered {status}: {detail}")
    return answer
