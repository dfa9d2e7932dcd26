"""Captions from a server with OpenAI's chat completions.

Examples are vLLM, SGLang and llama.cpp. Several requests are in flight.
"""

import base64
import concurrent.futures
import email.utils
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from PIL import Image

from datasets_prep.captioners.base import Kind, Result, model_of, prompt_for
from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.model_files import digest
from finetune.json_text import parse_json

JPEG_QUALITY = 90
LONGEST_WAIT = 120.0
BROKEN = (ConnectionError, http.client.HTTPException)
"""The connection ended while the server answered."""


class HttpCaptioner:
    """A model on a server. The model's name identifies its weights, so captions stay valid when the server moves."""

    def __init__(
        self, config: CaptionsConfig, *, timeout_seconds: float = 300.0, num_tries: int = 6, first_wait: float = 1.0
    ) -> None:
        assert config.url is not None  # CaptionsConfig has checked it
        address = urllib.parse.urlsplit(config.url)
        if address.scheme not in ("http", "https") or not address.hostname or address.query:
            raise ValueError(f"captions.url: got {config.url!r}, expected an address such as http://127.0.0.1:8000/v1")
        if address.username is not None or address.password is not None:
            raise ValueError(
                "captions.url: holds a user name or password. Leave them out, put the key into an environment variable "
                "and name that: captions.api_key_variable."
            )
        self.config = config
        self.url = config.url.rstrip("/")
        self.name = f"{model_of(config)} on {self.url}"
        self.batch_size = max(config.batch_size, 8 * config.requests_in_flight)
        self.timeout_seconds = timeout_seconds
        self.num_tries = num_tries
        self.first_wait = first_wait
        is_local = address.hostname in ("localhost", "127.0.0.1", "::1")
        proxies = urllib.request.ProxyHandler({} if is_local else None)
        self._opener = urllib.request.build_opener(proxies, _NoRedirects())

    def identity(self) -> str:
        config = self.config
        return digest(
            "http",
            model=config.model,
            prompt=config.prompt,
            max_new_tokens=config.max_new_tokens,
            max_side=config.max_side,
        )

    def load(self) -> None:
        """Do nothing: the first caption shows whether the server answers."""

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        with concurrent.futures.ThreadPoolExecutor(self.config.requests_in_flight) as pool:
            futures = [pool.submit(self._one, image, kind, hint) for image, hint in zip(images, hints, strict=True)]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # do not ask for the rest before saying what is wrong
                raise

    def _one(self, image: Image.Image, kind: Kind, hint: str) -> Result:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(image)}},
            {"type": "text", "text": prompt_for(self.config, kind, hint)},
        ]
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.config.max_new_tokens,
            "temperature": 0,
            "stream": False,
        }
        answer = self._ask(json.dumps(body).encode())
        return answer if isinstance(answer, Result) else read_answer(answer)

    def _ask(self, body: bytes) -> bytes | Result:
        """Request a completion, with retries. Raises where no other image would succeed either."""
        num_timeouts = 0
        for attempt in range(self.num_tries):
            is_last = attempt == self.num_tries - 1
            asked = None
            try:
                with self._opener.open(
                    self._request("/chat/completions", body), timeout=self.timeout_seconds
                ) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read(4096).decode("utf-8", "replace")
                if error.code != 429 and error.code < 500:
                    return self._refused(error.code, text)
                if is_last:
                    return _error(f"status {error.code} {self.num_tries} times: {_shortened(text)}")
                asked = error.headers.get("Retry-After")
            except urllib.error.URLError as error:
                if is_last:
                    raise OSError(
                        f"captions.url: no server answers at {self.url} ({error.reason}). Start it, or mend the "
                        "address; the same command then continues."
                    ) from error
            except TimeoutError:
                num_timeouts += 1
                if is_last or num_timeouts == 2:  # more would hold up all others for an image that takes too long
                    return _error(f"no answer within {self.timeout_seconds:g} seconds, {num_timeouts} times")
            except BROKEN as error:
                if is_last:
                    return _error(f"the connection broke {self.num_tries} times ({type(error).__name__})")
            time.sleep(wait_seconds(self.first_wait, attempt, asked))
        raise AssertionError("the last attempt returns or raises")

    def _request(self, path: str, body: bytes | None) -> urllib.request.Request:
        key = os.environ.get(self.config.api_key_variable, "").strip()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        return urllib.request.Request(self.url + path, body, headers)

    def _refused(self, status: int, text: str) -> Result:
        if status in (401, 403):
            raise ValueError(
                f"captions.url: {self.url} refuses the key (status {status}). Put a valid one into the environment "
                f"variable {self.config.api_key_variable}."
            )
        if status == 404 or 300 <= status < 400:
            known = "Check that the address ends as the server expects, e.g. /v1."
            if models := self._models():
                known = f"It offers {', '.join(models)}."
            raise ValueError(
                f"captions.model: {self.url} knows no model {self.config.model} (status {status}: {_shortened(text)}). "
                + known
            )
        return _error(f"status {status}: {_shortened(text)}")

    def _models(self) -> list[str]:
        try:
            with self._opener.open(self._request("/models", None), timeout=min(self.timeout_seconds, 30)) as answer:
                return [row["id"] for row in parse_json(answer.read())["data"]][:10]
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):  # not all have it
            return []


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the key goes only to the given address."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def data_url(image: Image.Image) -> str:
    """Encode an image as a JPEG in a data: address."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def read_answer(data: bytes) -> Result:
    """Parse a chat completion."""
    try:
        answer = parse_json(data)
        choice = answer["choices"][0]
        content = choice["message"]["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        reason = choice.get("finish_reason")
        num_tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return _error(f"an answer that is not a chat completion: {_shortened(data[:4096].decode('utf-8', 'replace'))}")
    if not isinstance(content, str) or reason == "content_filter":
        return _error("an answer without text" if reason != "content_filter" else "the server's filter held it back")
    return Result(content, num_tokens, "length" if reason == "length" else "stop")


def wait_seconds(first: float, attempt: int, asked: str | None) -> float:
    """Seconds before the next attempt. They double each time, but the server's Retry-After counts if longer."""
    return min(max(first * 2**attempt, _retry_after(asked)), LONGEST_WAIT)


def _retry_after(value: str | None) -> float:
    """Parse seconds to wait, given as a number or date; 0 without."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _error(detail: str) -> Result:
    return Result("", 0, "error", detail)


def _shortened(text: str) -> str:
    return " ".join(text.split())[:200]
