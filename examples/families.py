"""A small random model of each family that `loopscope.adapt` knows and that can be installed, and what kind of loop it is.

    python examples/families.py

prints the table of docs/evidence/models.md. Weights are random, so the table says nothing about trained models.
"""

import torch
from HRM import HRM
from tiny_recursive_model import MLPMixer1D, TinyRecursiveModel
from transformers import DoryConfig, DoryForCausalLM, HrmTextConfig, HrmTextForCausalLM, Inkling2LoopForCausalLM
from transformers.models.inkling2_loop.configuration_inkling2_loop import Inkling2LoopTextConfig
from x_transformers import Decoder, TransformerWrapper

import loopscope as ls

WORDS, TOKENS, EXAMPLES = 50, 8, 6
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "max_position_embeddings": 16,
}


def text():
    tokens = torch.randint(1, WORDS, (EXAMPLES, TOKENS), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def dory():
    layers = {"num_hidden_layers": 4, "n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1}
    return DoryForCausalLM(DoryConfig(**SIZES, **layers)), text()


def hrm_text():
    return HrmTextForCausalLM(HrmTextConfig(**SIZES, num_layers_per_stack=1, H_cycles=2, L_cycles=3)), text()


def inkling2_loop():
    sizes = {name: size for name, size in SIZES.items() if name not in ("intermediate_size", "pad_token_id")}
    window = {"swa_num_attention_heads": 2, "swa_num_key_value_heads": 1, "swa_head_dim": 8, "sliding_window_size": 4}
    experts = {"moe_intermediate_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2}
    loop = {"loop_layer_index_start": 2, "loop_layer_index_end": 6, "loop_num_passes": 3, "loop_gate_rank": 4}
    others = {"d_rel": 4, "rel_extent": 16, "n_layers_per_attn_res_block": 2, "unpadded_vocab_size": WORDS}
    kinds = {"num_hidden_layers": 8, "layer_types": ["hybrid_sliding", "hybrid"] * 4, "eos_token_id": 1}
    model = Inkling2LoopForCausalLM(Inkling2LoopTextConfig(**sizes, **window, **experts, **loop, **others, **kinds))
    for name, parameter in model.named_parameters():
        if "message" in name:  # gates and queries begin at zero, so that passes would not depend on each other
            torch.nn.init.normal_(parameter, std=0.3)
    return model, text()


def x_transformers():
    stack = Decoder(dim=16, depth=1, heads=2, attn_dim_head=8, pre_and_post_norm=True)
    model = TransformerWrapper(num_tokens=WORDS, max_seq_len=16, looped=True, attn_layers=stack)
    return model, {"x": text()["input_ids"]}


def tiny_recursive_model():
    network = MLPMixer1D(dim=16, depth=1, seq_len=TOKENS)
    return TinyRecursiveModel(dim=16, num_tokens=WORDS, network=network), text()["input_ids"]


def hrm_pytorch():
    network = {"dim": 16, "depth": 1, "attn_dim_head": 8, "heads": 2, "use_rmsnorm": True, "pre_norm": False}
    return HRM(networks=[dict(network), dict(network)], dim=16, num_tokens=WORDS), text()["input_ids"]


FAMILIES = (dory, hrm_text, inkling2_loop, x_transformers, tiny_recursive_model, hrm_pytorch)


def built(family):
    """Return a family's model, the same every time, as a loop with its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = family()
    return ls.adapt(model.eval(), inputs), inputs


def row(family):
    """Return a line of the table."""
    loop, inputs = built(family)
    exam = ls.examine(loop, inputs, effort="quick", iterations=200)
    state = loop.start(loop.encode(inputs))
    orbits = ", ".join(f"{count} {label}" for label, count in exam.reachability.counts.items())
    radius = f"{exam.spectrum.radius[0]:.3g}" if exam.spectrum else "not defined"
    tensors = len(state) if isinstance(state, dict) else 1
    step = type(loop).__name__.removesuffix("Loop").lower()
    kind = f"{exam.kind.name}, {step}"
    return f"| {type(loop.model).__name__} | {kind} | {tensors} | {orbits} | {radius} | {exam.verdict.value} |"


if __name__ == "__main__":
    print("| model | kind of loop | tensors of the state | orbits | spectral radius | verdict |")
    print("|---|---|---|---|---|---|")
    for family in FAMILIES:
        print(row(family), flush=True)
