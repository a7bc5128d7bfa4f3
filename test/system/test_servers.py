"""Real servers, from Debian's packages, do the same work on the library as they do without it."""
import pytest
import servers
from conftest import need


@pytest.mark.parametrize("server", servers.ALL, ids=lambda server: server.__name__)
def test_same_answers(server, preload, place):
    need(*server.needs)
    with server(place / "plain") as plain:
        expected = plain.load_and_read_back()
    with server(place / "preloaded", preload) as preloaded:
        assert preloaded.load_and_read_back() == expected
        assert len(preloaded.seen) >= server.least_processes
    preload.check_served(server.program, at_least=server.least_objects)
