"""The stability framework: reachability, input-dependence, geometry, and the verdict they add up to."""
