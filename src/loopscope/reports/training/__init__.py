"""The page of a training: the axes of stability over training steps, beside the loss."""
