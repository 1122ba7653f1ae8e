"""The spectrum of the Jacobian: eigenvalues, singular values, and their check against the observed contraction."""
