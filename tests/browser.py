"""A headless Chromium, driven by its own protocol over a pipe: pages are loaded, measured and asked. What they
write to the console or request from a network is kept."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60.0  # seconds until a browser that does not answer is given up
# Chromium reads its orders from 3 and answers to 4.
BECOME = "import os, sys; a, b, *w = sys.argv[1:]; os.dup2(int(a), 3); os.dup2(int(b), 4); os.execv(w[0], w)"
SILENT = ("data:", "blob:", "about:", "file:")


class Page:
    """One page of a browser."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.rest, self.count = to, back, b"", 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol and returns its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        return self._until(lambda said: said.get("id") == self.count)["result"]

    def open(self, page: Path, width: int = 1280, height: int = 900, scripts: bool = True, **media: str) -> None:
        """Loads a file at a size; media features such as prefers_color_scheme="dark" by keyword."""
        self.errors.clear()
        self.requests.clear()
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=page.absolute().as_uri())
        self._until(lambda said: said.get("method") == "Page.loadEventFired")

    def ask(self, expression: str) -> Any:
        """Returns the value of an expression of JavaScript, once its promise is kept."""
        wanted = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        told = self.call("Runtime.evaluate", **wanted)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, expression: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.ask(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def point(self, x: float, y: float) -> None:
        """Moves the mouse to a place of the window."""
        for dx in (-2, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + dx, y=y)

    def screenshot(self, to: Path, whole: bool = True) -> None:
        """Writes a picture of the page."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        to.write_bytes(base64.b64decode(content))

    def print(self, to: Path) -> None:
        """Writes the page as it would be printed."""
        to.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"]))

    def _until(self, wanted: Any) -> dict[str, Any]:
        """The first message that is wanted; those before are taken note of."""
        while True:
            said = self._read()
            self._note(said)
            if wanted(said):
                assert "error" not in said, said
                return said

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            assert select([self.back], [], [], PATIENCE)[0], "the browser does not answer"
            more = os.read(self.back, 1 << 20)
            assert more, "the browser has ended"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def _note(self, said: dict[str, Any]) -> None:
        method, told = said.get("method"), said.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(each.get("value", each.get("description"))) for each in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(SILENT):
            self.requests.append(told["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Yields a page of a browser that is started for the block; its files go to a folder."""
    assert CHROMIUM
    (told, to), (back, answers) = map(_high, os.pipe()), map(_high, os.pipe())
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
    words += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        [sys.executable, "-c", BECOME, str(told), str(answers), CHROMIUM, *words],
        pass_fds=(told, answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(told)
    os.close(answers)
    try:
        yield Page(to, back)
    finally:
        process.kill()
        process.wait()
        os.close(to)
        os.close(back)


def _high(descriptor: int) -> int:
    """The same file under a number that is none of those which Chromium expects."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return high
