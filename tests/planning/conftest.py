"""Both implementations of the backward pass."""

import pytest

from mbrl.planning import riccati


@pytest.fixture(params=["numpy", "native"])
def implementation(request, monkeypatch):
    """Run a test in NumPy and with the native backward pass."""
    if request.param == "numpy":
        monkeypatch.setattr(riccati, "_NATIVE", None)
    elif riccati._NATIVE is None:
        pytest.skip("the native backward pass was not built")
    return request.param
