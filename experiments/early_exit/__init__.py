"""Early-exit rules on the shipped models and on two small looped language models."""
