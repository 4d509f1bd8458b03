import pytest

from thriftnet.kernels.build import KernelsUnavailable
from thriftnet.kernels.norm_act_add import prepare


@pytest.fixture
def kernels() -> None:
    """Skips where no kernel can be compiled."""
    try:
        prepare()
    except KernelsUnavailable as problem:
        pytest.skip(str(problem))
