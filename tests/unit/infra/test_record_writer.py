"""Where a key lies: as aiokafka's own hash, which is the Java client's, would have it."""

import os

import pytest
from aiokafka.partitioner import murmur2

from infra.record_writer import _murmur2


@pytest.mark.parametrize("size", [*range(20), 36, 1000])
def test_the_hash_of_a_key_is_that_of_every_other_client(size):
    for key in (bytes(size), b"\xff" * size, *(os.urandom(size) for _ in range(50))):
        assert _murmur2(key) == murmur2(key)
