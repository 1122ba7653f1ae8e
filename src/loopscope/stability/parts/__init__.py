"""The parts of an examination. Each function measures one part and returns its result from ``stability.results``."""
