"""Shape strings in the package's signatures are checked at run time in every test."""

import jaxtyping
import pytest
import torch
from hypothesis import settings

# The first case of a test may compile for seconds, and other work may run beside: no property is about time.
settings.register_profile("loopscope", deadline=None)
settings.load_profile("loopscope")

# The numeric tower is what type checkers assume: an int serves where a float is asked for.
jaxtyping.install_import_hook("loopscope", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
torch.set_num_threads(1)


@pytest.fixture
def unchecked():
    """Switch these checks off, as they are for users: to see what the package itself refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
