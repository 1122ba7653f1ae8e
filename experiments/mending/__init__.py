"""What training options that may keep a loop from collapsing buy and cost, and whether a watch warns in time."""
