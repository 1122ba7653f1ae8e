"""Known families of looped models, one file each."""
