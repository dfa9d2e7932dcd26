"""Headless Chromium, driven through the pipe of its DevTools protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Home": 36, "End": 35}
PATIENCE = 60.0
"""Seconds until something that a page should do has not happened."""


class Browser:
    """One tab; `close` ends the browser."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("needs chromium (make browser)")
        its_input, commands = os.pipe()
        answers, its_output = os.pipe()

        def place() -> None:  # the browser reads from 3 and writes to 4
            pair = os.dup(its_input), os.dup(its_output)
            os.dup2(pair[0], 3)
            os.dup2(pair[1], 4)

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-dev-shm-usage"]
        self._process = subprocess.Popen(
            [program, *options, f"--user-data-dir={profile}"],
            preexec_fn=place,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_input)
        os.close(its_output)
        self._commands, self._answers = commands, answers
        self._numbers, self._unread, self._session = itertools.count(1), b"", None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: object) -> dict:
        """Return what a command of the protocol answers; events are kept."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters}
        command |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self._unread:
                part = os.read(self._answers, 1 << 20)
                assert part, "the browser has ended"
                self._unread += part
            line, self._unread = self._unread.split(b"\0", 1)
            answer = json.loads(line)
            if "method" in answer:
                self.events.append(answer)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression: str) -> object:
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, address: str, width: int = 1100, height: int = 1000, scheme: str = "light") -> None:
        """Show a page and wait until its script has run."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=address)
        self.wait(lambda: self.value("document.readyState") == "complete")

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            text |= {"windowsVirtualKeyCode": KEY_CODES[key]} if key in KEY_CODES else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place and let it go at another."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def watch(self) -> None:
        """Keep requests and errors of the pages opened later as `events`."""
        for domain in ("Network", "Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")
        self.events.clear()

    def faults(self) -> list[str]:
        """List errors and requests for other files. Data in the page is not a request. It needs `watch`."""
        found = [each["params"] for each in self.events if each["method"] == "Network.requestWillBeSent"]
        opened = {each["documentURL"] for each in found}
        asked = [each["request"]["url"] for each in found]
        requests = [url for url in asked if not url.startswith("data:") and url not in opened]
        errors = ("Runtime.exceptionThrown", "Log.entryAdded")
        return requests + [str(each["params"]) for each in self.events if each["method"] in errors]

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
        return path

    def wait(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    def close(self) -> None:
        self.call("Browser.close")
        self._process.wait(PATIENCE)
        os.close(self._commands)
        os.close(self._answers)
