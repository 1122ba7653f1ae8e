"""Sorting of a model's results from before its loop: recalled numbers, context, and placeholders for the rest."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from loopscope.adapters.flow import Spot
from loopscope.adapters.paths import Blank, Echo, tensors_by_path, with_leaves
from loopscope.adapters.plan import Plan
from loopscope.adapters.tape import Place
from loopscope.trees import HALF, Tree


class Sorted:
    """Returned values, sorted into recalled numbers, context and placeholders."""

    def __init__(self, plan: Plan, batch: int) -> None:
        self.plan, self.batch = plan, batch
        # A call that is made on its own finds everything it needs among its arguments.
        self.for_step = frozenset() if plan.direct else plan.for_step
        self.needed = self.for_step | plan.for_start | plan.for_read
        self.counted = self.for_step
        self.numbers: dict[str, Tensor] = {}
        self.aside: dict[str, Tensor] = {}

    def count_what_the_step_takes(self, returned: Mapping[Place, Tree]) -> None:
        """Count the values that the step takes as the recalled input; if it takes none, those of the first state."""
        made = {place: tensors_by_path(tree) for place, tree in returned.items()}
        if not self.numbers and not any(
            any(self.plan.grows[Spot(place, path)]) and made[place][path].is_floating_point()
            for place, path in self.for_step
        ):
            self.counted = self.plan.for_start

    def returned(self, place: Place, tree: Tree) -> Tree:
        """Sort the values that a call returned, and return their structure with placeholders."""
        return with_leaves(
            tree, {path: self._form(Spot(place, path), leaf) for path, leaf in tensors_by_path(tree).items()}
        )

    def _form(self, spot: Spot, leaf: Tensor) -> Tensor | Blank | Echo:
        if spot in self.plan.echoes:
            return Echo(self.plan.echoes[spot])
        grows = self.plan.grows.get(spot, (False,) * leaf.ndim)
        if spot in self.needed and not any(grows):
            return leaf
        if spot in self.needed:
            self._keep(str(spot), leaf, grows, counts=spot in self.counted)
        return Blank.of(leaf, grows, self.batch)

    def arguments(self, tree: Tree) -> Tree:
        """Sort the arguments of the call that is an iteration, and return their structure with placeholders."""
        state = {spot.path for part in self.plan.state for spot in part.used}
        forms = {}
        for path, leaf in tensors_by_path(tree).items():
            grows = self.plan.argument_grows.get(path, ())
            if any(grows):
                forms[path] = Blank.of(leaf, grows, self.batch)
                if path not in state:
                    self._keep(self.plan.ends.argument(path), leaf, grows, counts=True)
        return with_leaves(tree, forms)

    def _keep(self, name: str, leaf: Tensor, grows: tuple[bool, ...], *, counts: bool) -> None:
        kept = in_single_precision(Blank.of(leaf, grows, self.batch).by_example(leaf, name))
        (self.numbers if counts and leaf.is_floating_point() else self.aside)[name] = kept


def in_single_precision(tensor: Tensor) -> Tensor:
    """Return a tensor in at least single precision, since norms and residuals in half precision are too coarse."""
    return tensor.float() if tensor.dtype in HALF else tensor
