"""Experiments on looped models, outside of the package. They use Loopscope as any other project would."""
