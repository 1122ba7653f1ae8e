"""Training of a model on a task: objectives, samplers of iteration counts, the trainer, and run folders."""
