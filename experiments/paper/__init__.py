"""The paper's comparisons on its own tasks: a ledger of runs, and tables and figures of it."""
