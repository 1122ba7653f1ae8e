"""What lower precision does to a loop over many iterations."""
