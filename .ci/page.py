"""Opens pages in a headless Chromium, over the DevTools protocol on a pair of pipes, and says what is wrong with them."""

import argparse
import base64
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
]
WIDTHS = {"narrow": 360, "wide": 1400}
PATIENCE = 60.0


class Browser:
    """A Chromium that reads commands from its file 3 and writes answers to its file 4, each ended by a NUL."""

    def __init__(self, profile):
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()

        # The two ends may already be 3 or 4: copies above them first.
        def files():
            high = [os.dup2(to_browser, 100), os.dup2(from_browser, 101)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.log = open(pathlib.Path(profile) / "stderr", "wb")
        self.process = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={profile}/data", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            close_fds=False,
            preexec_fn=files,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.buffer, self.number, self.events = b"", 0, []

    def receive(self, patience):
        """The next message, or None if there is none for so long."""
        end = time.monotonic() + patience
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.read_end], [], [], left)[0]:
                return None
            read = os.read(self.read_end, 1 << 20)
            if not read:
                sys.exit(f"chromium ended by itself; expected it to open a page; it said:\n{self.said()}")
            self.buffer += read
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write_end, data) :]
        while True:
            answer = self.receive(PATIENCE)
            if answer is None:
                sys.exit(f"chromium did not answer {method} within {PATIENCE:.0f} s; it said:\n{self.said()}")
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"chromium refused {method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def listen(self, seconds, until=None):
        """Collects events for so long, or until one of a method has come."""
        end = time.monotonic() + seconds
        while not (until and any(event.get("method") == until for event in self.events)):
            left = end - time.monotonic()
            message = self.receive(left) if left > 0 else None
            if message is None:
                return
            self.events.append(message)

    def said(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")[-2000:]

    def close(self):
        os.close(self.write_end)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.read_end)
        self.log.close()


def complaints_of(events, url):
    """What the browser said or asked for that it should not have."""
    for event in events:
        method, of = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and of["type"] in ("error", "warning", "assert"):
            words = " ".join(str(argument.get("value", argument.get("description"))) for argument in of["args"])
            yield f"console {of['type']}: {words}"
        elif method == "Runtime.exceptionThrown":
            details = of["exceptionDetails"]
            yield f"exception: {details.get('exception', {}).get('description', details['text'])}"
        elif method == "Log.entryAdded" and of["entry"]["level"] in ("error", "warning"):
            yield f"log {of['entry']['level']}: {of['entry']['text']}"
        elif method == "Network.requestWillBeSent":
            asked = of["request"]["url"]
            if asked.split("#")[0] != url and not asked.startswith("data:"):
                yield f"requests {asked}"


def opened(browser, url, width, scripts, ids, shot):
    """Opens a page in a tab of its own; yields what is wrong with it."""
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    tab = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.call("Emulation.setDeviceMetricsOverride", tab, width=width, height=900, deviceScaleFactor=1, mobile=False)
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable", tab)
    browser.call("Emulation.setScriptExecutionDisabled", tab, value=not scripts)
    browser.events.clear()
    answer = browser.call("Page.navigate", tab, url=url)
    if "errorText" in answer:
        yield f"does not open: {answer['errorText']}"
    browser.listen(PATIENCE, until="Page.loadEventFired")
    if not any(event.get("method") == "Page.loadEventFired" for event in browser.events):
        yield f"is not loaded after {PATIENCE:.0f} s"
    browser.listen(0.5)
    yield from complaints_of(browser.events, url)

    root = browser.call("DOM.getDocument", tab, depth=0)["root"]["nodeId"]
    for identity in ids:
        selector = f"[id={json.dumps(identity)}]"
        if not browser.call("DOM.querySelector", tab, nodeId=root, selector=selector)["nodeId"]:
            yield f"has no element with the id {identity}"

    size = browser.call("Page.getLayoutMetrics", tab)["cssContentSize"]
    if size["width"] > width:
        yield f"is {size['width']:.0f} px wide in a window of {width} px; expected no scrolling sideways"
    if shot:
        # One picture of the whole page, up to what an encoder takes.
        clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], 16000), "scale": 1}
        picture = browser.call("Page.captureScreenshot", tab, format="png", captureBeyondViewport=True, clip=clip)
        shot.write_bytes(base64.b64decode(picture["data"]))
    browser.call("Target.closeTarget", targetId=target)


def check(path, ids, shots=None):
    """What is wrong with a page, at each width, with scripts and without."""
    url = pathlib.Path(path).resolve(strict=True).as_uri()
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            for name, width in WIDTHS.items():
                for scripts in (True, False):
                    shot = shots / f"{name}.png" if shots and scripts else None
                    for wrong in opened(browser, url, width, scripts, ids, shot):
                        said = f"{wrong} ({width} px, scripts {'on' if scripts else 'off'})"
                        if said not in found:
                            found.append(said)
        finally:
            browser.close()
    return found


def self_test():
    """Pages with one fault each, and one without."""
    page = '<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><link rel="icon" href="data:,"><p id="a">a</p>'
    cases = {
        "a page without a fault": (page, None),
        "a console error": (page + "<script>console.error('broken')</script>", "console error: broken"),
        "a console warning": (page + "<script>console.warn('careful')</script>", "console warning: careful"),
        "an exception": (page + "<script>null.x</script>", "exception: TypeError"),
        "a request": (page + '<img src="http://example.invalid/x" alt="">', "requests http://example.invalid/x"),
        "a request that the page forbids itself": (
            page.replace("<title>", "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'\"><title>")
            + '<img src="http://example.invalid/x" alt="">',
            "log error: ",
        ),
        "a missing id": (page.replace('id="a"', 'id="b"'), "has no element with the id a"),
        "an id that only a script makes": (
            page.replace('id="a"', "") + "<script>document.querySelector('p').id = 'a'</script>",
            "has no element with the id a (360 px, scripts off)",
        ),
        "a page too wide for a telephone": (
            page + '<div style="width: 400px">w</div>',
            "is 408 px wide in a window of 360 px",
        ),
    }
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, (text, expected) in cases.items():
            path = pathlib.Path(folder) / "page.html"
            path.write_text(text)
            found = check(path, ["a"])
            good = any(expected in wrong for wrong in found) if expected else not found
            print(f"{'ok' if good else 'FAILED'}: {name}")
            if not good:
                failed = True
                print(f"  expected {expected or 'no complaint'}, found {found}")
    return failed


def main():
    parser = argparse.ArgumentParser(prog=".ci/page", description=__doc__)
    parser.add_argument("--self-test", action="store_true", help="check pages with known faults")
    parser.add_argument("--shots", type=pathlib.Path, metavar="DIR", help="write narrow.png and wide.png there")
    parser.add_argument("file", nargs="?", metavar="FILE.html")
    parser.add_argument("ids", nargs="*", metavar="ID")
    arguments = parser.parse_args()
    if arguments.self_test:
        sys.exit(self_test())
    if not arguments.file:
        parser.error("expected FILE.html")
    found = check(arguments.file, arguments.ids, arguments.shots)
    for wrong in found:
        print(f"{arguments.file}: {wrong}", file=sys.stderr)
    if found:
        sys.exit(1)
    print(f"{arguments.file}: opens at {' and '.join(f'{w} px' for w in WIDTHS.values())}, {len(arguments.ids)} ids found")


main()
