"""Small third-party models in folders and modules, as users of the command line have them."""

from __future__ import annotations

from looped_models import seeded
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DoryConfig, DoryForCausalLM, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "two", "plus", "is", "four", "one", "three", "five", "minus", "and", "so", "what"]
TEXTS = "two plus two is\none plus three\n\nfive minus one is four\nso what is two\none and one\n"
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 32,
}
LAYERS = {"num_hidden_layers": 4, "n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1, "head_dim": 8}
CODE = """
import torch
from torch import nn

class Core(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, z, x):
        return torch.tanh(0.5 * self.inner(z) + x)

class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.core, self.head = nn.Linear(3, 6), Core(), nn.Linear(6, 2)

    def forward(self, x, scale=None):
        x = self.embed(x if scale is None else x * scale)
        z = torch.zeros_like(x)
        for _ in range(4):
            z = self.core(z, x)
        return self.head(z)

class Two(Looped):
    def forward(self, x, y):
        return super().forward(x + y)

torch.manual_seed(0)
model, two, number = Looped(), Two(), 3

def make():
    import package_beside
    return Looped()

def needs(argument):
    return Looped()
"""


def tokenizer_of(words):
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def save_dory(place):
    """Write a tiny Dory with its tokenizer, as save_pretrained writes them, and texts beside it."""
    seeded(lambda: DoryForCausalLM(DoryConfig(**SIZES, **LAYERS))).save_pretrained(place)
    tokenizer_of(WORDS).save_pretrained(place)
    (place / "prompts.txt").write_text(TEXTS)
