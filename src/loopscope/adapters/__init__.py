"""Any other model as a loop: known families by `adapt`, any module by `capture`, each proven to be the model."""
