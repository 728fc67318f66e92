"""Two kinds of tests run at once: most do, in as many processes as there are cores; those that are `alone` judge rates,
latencies or a page's liveliness, and would see their neighbours."""
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/ref"), str(ROOT / "clients/python")]

import cli  # noqa: E402

ALONE = {"test_bench", "test_live_page", "test_methods_daemon", "test_stream", "test_systemd"}
SCATTERED = {"test_zoo", "test_parity", "test_hostile_model", "test_methods_cam"}  # they share nothing among their tests


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: not beside other tests")
    config.pluginmanager.register(Lines(config), "lines")


def pytest_collection_modifyitems(items):
    if not os.path.exists(cli.binary()):
        pytest.exit(f"no binary at {cli.binary()}: build first, or set PG_BINARY", returncode=2)
    for item in items:
        name = item.path.stem
        if name in ALONE:
            item.add_marker("alone")
        if name not in SCATTERED:  # one process for a file: its fixtures are made once
            item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: item.path.stem not in SCATTERED)  # the long ones first


@pytest.fixture
def say(request):
    """Prints a line of a result table, also when the test passes, and in whichever process it runs."""
    return lambda text="": request.node.user_properties.append(("say", text))


class Lines:
    """Writes what tests said, once they are over."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.when == "teardown" and terminal and "PYTEST_XDIST_WORKER" not in os.environ:
            for kind, text in report.user_properties:
                if kind == "say":
                    terminal.write_line(text)
