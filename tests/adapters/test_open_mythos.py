import pytest
from looped_models import OpenMythos, seeded

from loopscope.adapters.registry import adapt
from loopscope.errors import LoopscopeError


def test_it_is_refused_because_it_depends_on_time_and_reads_its_history():
    with pytest.raises(LoopscopeError, match="OpenMythos cannot be a loop: its iterations depend on their index"):
        adapt(seeded(OpenMythos))
