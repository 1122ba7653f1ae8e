"""Shape strings in the package's signatures are checked at run time in every test."""

import torch
from jaxtyping import install_import_hook

install_import_hook("loopscope", "beartype.beartype")
torch.set_num_threads(1)
