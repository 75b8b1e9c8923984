"""What training changes in the whole process is put back, for the tests that come after."""

import pytest
import torch


@pytest.fixture(autouse=True)
def denormal_numbers():
    """Training flushes the smallest numbers to zero; Hypothesis cannot draw floats while that is so."""
    yield
    torch.set_flush_denormal(False)
