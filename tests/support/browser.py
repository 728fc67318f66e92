"""A headless Chromium, driven through chromedriver's WebDriver protocol (W3C WebDriver) with urllib. The
browser is started here: chromedriver would look for it at "localhost", which a bare container cannot resolve.

    with Browser(folder) as page:
        page.open(url); page.run("return document.title"); page.screenshot(folder / "page.png")
"""
import base64
import json
import pathlib
import shutil
import subprocess
import time
import urllib.error
import urllib.request

from daemon import free_port

ARGUMENTS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
             "--disable-background-networking --disable-component-update --disable-sync "
             "--disable-dev-shm-usage").split()


class Browser:
    @staticmethod
    def available():
        return bool(shutil.which("chromedriver") and shutil.which("chromium"))

    def __init__(self, folder, width=1280, height=900):
        self.folder = pathlib.Path(folder)
        driver, debugger = free_port(), free_port()
        self.url = f"http://127.0.0.1:{driver}"
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.commands = [
            ["chromium", *ARGUMENTS, f"--user-data-dir={self.folder / 'chromium'}",
             f"--window-size={width},{height}", f"--remote-debugging-port={debugger}", "about:blank"],
            ["chromedriver", f"--port={driver}"]]
        self.wanted = {"browserName": "chrome",
                       "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
                       "goog:chromeOptions": {"debuggerAddress": f"127.0.0.1:{debugger}"}}
        self.processes, self.session = [], None

    def __enter__(self):
        try:
            for command in self.commands:
                log = (self.folder / f"{command[0]}.log").open("w")
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            self._wait_for_driver()
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": self.wanted}})
            self.session = answer["sessionId"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.session:
            self._call("DELETE", f"/session/{self.session}")
        for process in reversed(self.processes):
            process.terminate()
            process.wait(10)

    def _wait_for_driver(self, seconds=30):
        end = time.monotonic() + seconds
        while True:
            try:
                if self._call("GET", "/status")["ready"]:
                    return
            except urllib.error.URLError:
                assert time.monotonic() < end, "no chromedriver"
            time.sleep(.05)

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method,
                                         headers={"Content-Type": "application/json"})
        try:
            with self.opener.open(request, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.read().decode()[:2000]}") from None

    def _do(self, path, **body):
        return self._call("POST", f"/session/{self.session}/{path}", body)

    def open(self, url):
        self._do("url", url=url)

    def run(self, script, *arguments):
        """The value a JavaScript function body returns (or its promise gives)."""
        return self._do("execute/sync", script=script, args=list(arguments))

    def resize(self, width, height):
        self._do("window/rect", width=width, height=height)

    def screenshot(self, path):
        data = self._call("GET", f"/session/{self.session}/screenshot")
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def requests(self, document):
        """The addresses of all requests that the page `document` has made since the last call; the
        browser's own start page makes some, too."""
        events = [json.loads(entry["message"])["message"]
                  for entry in self._do("se/log", type="performance")]
        return [e["params"]["request"]["url"] for e in events
                if e["method"] == "Network.requestWillBeSent"
                and e["params"]["documentURL"] == document]

    def console(self):
        """What the page has complained about since the last call."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._do("se/log", type="browser")]
