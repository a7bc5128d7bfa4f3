"""Real servers, from Debian's packages, do the same work on the library as they do without it."""
import pytest
import servers
from conftest import missing, need


@pytest.mark.parametrize("server", servers.ALL, ids=lambda server: server.__name__)
def test_same_answers(server, preload, place):
    need(*server.needs)
    for path, package in server.files.items():
        if not path.exists():
            missing(path.name, package)
    with server(place / "plain") as plain:
        expected = plain.load_and_read_back()
    with server(place / "preloaded", preload) as preloaded:
        assert preloaded.load_and_read_back() == expected
    preload.check_served(server.program, server.least_objects, server.least_processes)
