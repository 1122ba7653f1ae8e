"""Training a model on a task: objectives, iteration-count samplers, the trainer, run folders."""
