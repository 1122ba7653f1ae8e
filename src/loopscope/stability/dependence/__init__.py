"""Input-dependence: the swap test, distinct fixed points, the share of variance between inputs, sensitivity."""
