"""Studies: grids of runs, their ledger and their workers."""
