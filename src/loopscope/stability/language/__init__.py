"""What an examination says about a language model: how many loops are enough, how far it is safe to go, and each token."""
