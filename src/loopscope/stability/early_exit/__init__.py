"""Early exit: which rule stops a loop soonest without costing accuracy, on one recorded orbit."""
