"""What every adapted model must be, whatever its family."""

import torch


def logits_after(loop, inputs, count, generator=None):
    """Return what a loop reads after a number of the model's iterations."""
    with torch.no_grad():
        recalled = loop.encode(inputs)
        state = loop.start(recalled, generator)
        for _ in range(count - loop.iterations_before):
            state = loop.step(state, recalled)
        return loop.read(state, recalled)


def assert_is_the_model(loop, inputs, own):
    """The loop gives the model's own logits exactly after 1, 2, 3 and 5 iterations, and those that it is read at.

    ``own(count)`` runs the model for a number of iterations.
    """
    for count in (1, 2, 3, 5):
        with torch.no_grad():
            wanted = own(count)
        assert torch.equal(logits_after(loop.reading("all"), inputs, count), wanted), f"{count} iterations"
        torch.testing.assert_close(logits_after(loop, inputs, count), loop.chosen(wanted, inputs))


def radius(loop, inputs):
    """Return the spectral radius of the Jacobian of one example, in full, after three iterations, in float64."""
    from loopscope.jacobian import in_precision, step_jacobian
    from loopscope.trees import detached, select

    inputs = select(inputs, slice(0, 1))
    with torch.no_grad():
        recalled = loop.encode(inputs)
        state = loop.start(recalled)
        for _ in range(3):
            state = loop.step(state, recalled)
    fine, state, recalled = in_precision(loop, detached(state), detached(recalled), torch.float64)
    jacobian = step_jacobian(fine, state, recalled)
    columns = [jacobian.jvp(unit[None])[0] for unit in torch.eye(jacobian.size, dtype=torch.float64)]
    return float(torch.linalg.eigvals(torch.stack(columns, 1)).abs().max())
