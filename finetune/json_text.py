"""JSON of any origin. Torch-free."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError for anything else, nesting too deep for Python among it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error
