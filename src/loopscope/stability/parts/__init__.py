"""The parts of an examination: each function measures one and returns its result from ``stability.results``."""
