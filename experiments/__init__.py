"""Experiments on looped models, outside the package. They use Loopscope as any other project would."""
