"""DynamoDB for these tests: a moto server on loopback, so that every answer crosses the wire.

Not moto in process: there it also carries out the calls that `Faults` answers instead of it.
"""

from collections.abc import Iterator

import pytest
from faulty_dynamodb import Rig
from moto.server import ThreadedMotoServer


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """URL of the server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def shared_rig(endpoint: str) -> Rig:
    return Rig(endpoint)


@pytest.fixture
def bare_rig(shared_rig: Rig) -> Rig:
    """Rig without a table."""
    shared_rig.reset()
    return shared_rig


@pytest.fixture
def rig(bare_rig: Rig) -> Rig:
    """Rig with an empty table."""
    bare_rig.plain.ensure_exists(create=True)
    return bare_rig
