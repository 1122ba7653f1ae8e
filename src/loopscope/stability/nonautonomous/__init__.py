"""What is defined for loops without a single map: answers kept, swaps at an iteration, exponents along the orbit, noise."""
