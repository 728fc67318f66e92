import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/ref"), str(ROOT / "clients/python")]

import cli  # noqa: E402


def pytest_collection_modifyitems(items):
    if not os.path.exists(cli.binary()):
        pytest.exit(f"no binary at {cli.binary()}: build first, or set PG_BINARY", returncode=2)


@pytest.fixture
def say(capsys):
    """Prints a line of a result table, also when the test passes."""
    def line(text=""):
        with capsys.disabled():
            print(text, flush=True)
    return line
