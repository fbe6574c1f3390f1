"""Links to other packages' pages: where their lists of names are there, and where they are not."""

from __future__ import annotations

import functools
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"
if not EXTENSIONS.is_dir():
    pytest.skip("not run from a checkout: docs/ is not there", allow_module_level=True)

LIST = b"# Sphinx inventory version 2\n# Project: muon\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def inventories(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    from inventories import inventories

    return inventories


@pytest.fixture
def site(tmp_path):
    """A web site with the list of one package, and what a proxy would say for another."""
    for name, content in (("muon", LIST), ("scanpy", b"<html>please log in</html>")):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "objects.inv").write_bytes(content)
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def ignores(patterns, name):
    return any(re.fullmatch(pattern, name) for _, pattern in patterns)


def test_what_is_there_is_linked_and_the_rest_ignored(inventories, site, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names = ("muon", "scanpy", "python")
    mapping, ignored = inventories({name: f"{site}{name}/" for name in names}, tmp_path / "kept")
    assert list(mapping) == ["muon"]
    address, file = mapping["muon"]
    assert address == f"{site}muon/" and Path(file).read_bytes() == LIST
    assert not ignores(ignored, "muon.pp.neighbors")  # a wrong name is still an error
    for name in ("scanpy.pp.neighbors", "collections.abc.Mapping", "str", "ValueError"):
        assert ignores(ignored, name), name
    assert not ignores(ignored, "mumask.MaskedVAE") and not ignores(ignored, "strange")


def test_a_kept_list_serves_without_network(inventories, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "muon.inv").write_bytes(LIST)
    mapping, ignored = inventories({"muon": "http://127.0.0.1:9/"}, kept)
    assert list(mapping) == ["muon"] and ignored == []
