"""The families of looped models that are known, one file each."""
