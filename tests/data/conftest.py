"""What tests of own data share."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder of caches of the test's own."""
    monkeypatch.setenv("PYRO_SEMIVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
