"""Looped models of the same structure as published ones, written for the tests: small, random, and with their traps."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY, WIDTH, HEADS, TOKENS = 13, 16, 2, 6


def seeded(build, *args, **options):
    """Build a model with weights that are the same every time, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*args, **options).eval()


def ids(batch=3, tokens=TOKENS, seed=0):
    return torch.randint(1, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(seed))


class Attention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.to_qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.to_qkv(x).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        allowed = torch.ones(tokens, tokens, dtype=torch.bool)
        allowed = (allowed.tril() if self.causal else allowed)[None, None]
        allowed = allowed if mask is None else allowed & (mask > 0)[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))


class Block(nn.Module):
    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.attention, self.norm = Attention(causal), nn.RMSNorm(WIDTH)
        self.mlp = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor, mask: Tensor | None = None, offset: int = 0) -> Tensor:
        x = x + self.attention(self.norm(x), mask)
        return x + self.mlp(x)


class DoryLike(nn.Module):
    """Prelude, looped and output layers; the state is normalized and the prelude's output added around the loop."""

    def __init__(self, loops: int = 4, causal: bool = False) -> None:
        super().__init__()
        self.loops = loops
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block(causal) for _ in range(5))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace | Tensor:
        hidden = self.embed(input_ids)
        for layer in self.layers[:2]:
            hidden = layer(hidden, mask=attention_mask)
        injected = self.norm(hidden)
        for loop in range(self.loops):
            hidden = self.norm(hidden) + injected
            for layer in self.layers[2:4]:
                hidden = layer(hidden, mask=attention_mask, offset=loop * 2)
        hidden = self.layers[4](hidden, mask=attention_mask)
        return self.head(self.norm(hidden))

    @staticmethod
    def run(model: nn.Module, inputs: dict[str, Tensor], iterations: int) -> Tensor:
        model.loops = iterations
        return model(**inputs)


@dataclass
class InnerCarry:
    z_H: Tensor
    z_L: Tensor


@dataclass
class Carry:
    inner_carry: InnerCarry
    steps: Tensor
    halted: Tensor
    current_data: dict[str, Tensor]


class Casted(nn.Linear):
    """Computes in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Level(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.up, self.down = (
            Casted(TOKENS + 1, TOKENS + 1),
            Casted(WIDTH, 2 * WIDTH),
            Casted(2 * WIDTH, WIDTH),
        )

    def forward(self, hidden_states: Tensor, input_injection: Tensor, **seq_info) -> Tensor:
        hidden_states = hidden_states + input_injection
        hidden_states = F.rms_norm(hidden_states + self.mix(hidden_states.mT).mT, (WIDTH,))
        return F.rms_norm(hidden_states + self.down(F.silu(self.up(hidden_states))), (WIDTH,))


class Inner(nn.Module):
    """What HRM and TRM share: embeddings with a puzzle's own token in front, two states, heads."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.dtype = getattr(torch, config.forward_dtype)
        self.embed_tokens = nn.Embedding(config.vocab_size, WIDTH)
        self.puzzle_emb = nn.Embedding(config.num_puzzle_identifiers, WIDTH)
        self.lm_head, self.q_head = Casted(WIDTH, config.vocab_size), Casted(WIDTH, 2)
        self.L_level = Level()
        self.register_buffer("H_init", torch.randn(WIDTH).to(self.dtype))
        self.register_buffer("L_init", torch.randn(WIDTH).to(self.dtype))

    def empty_carry(self, batch: int) -> InnerCarry:
        shape = (batch, TOKENS + 1, WIDTH)
        return InnerCarry(torch.empty(shape, dtype=self.dtype), torch.empty(shape, dtype=self.dtype))

    def reset_carry(self, flag: Tensor, carry: InnerCarry) -> InnerCarry:
        flag = flag.view(-1, 1, 1)
        return InnerCarry(torch.where(flag, self.H_init, carry.z_H), torch.where(flag, self.L_init, carry.z_L))

    def embedded(self, batch: dict[str, Tensor]) -> Tensor:
        tokens = self.embed_tokens(batch["inputs"].to(torch.int32))
        puzzle = self.puzzle_emb(batch["puzzle_identifiers"])[:, None]
        return (WIDTH**0.5 * torch.cat([puzzle, tokens], dim=1)).to(self.dtype)

    def answered(self, z_H: Tensor, z_L: Tensor) -> tuple[InnerCarry, Tensor, Tensor]:
        carry = InnerCarry(z_H=z_H.detach(), z_L=z_L.detach())
        return carry, self.lm_head(z_H)[:, 1:], self.q_head(z_H[:, 0]).to(torch.float32)


class TRMInner(Inner):
    def cycle(self, z_H: Tensor, z_L: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.config.L_cycles):
            z_L = self.L_level(z_L, z_H + embeddings)
        return self.L_level(z_H, z_L), z_L

    def forward(self, carry: InnerCarry, batch: dict[str, Tensor]) -> tuple[InnerCarry, Tensor, Tensor]:
        embeddings = self.embedded(batch)
        z_H, z_L = carry.z_H, carry.z_L
        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                z_H, z_L = self.cycle(z_H, z_L, embeddings)
        return self.answered(*self.cycle(z_H, z_L, embeddings))


class HRMInner(Inner):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__(config)
        self.H_level = Level()

    def forward(self, carry: InnerCarry, batch: dict[str, Tensor]) -> tuple[InnerCarry, Tensor, Tensor]:
        embeddings = self.embedded(batch)
        high, low = self.config.H_cycles, self.config.L_cycles
        with torch.no_grad():
            z_H, z_L = carry.z_H, carry.z_L
            for i in range(high):
                for j in range(low):
                    if not (i == high - 1 and j == low - 1):
                        z_L = self.L_level(z_L, z_H + embeddings)
                if i != high - 1:
                    z_H = self.H_level(z_H, z_L)
        assert not z_H.requires_grad
        assert not z_L.requires_grad
        z_L = self.L_level(z_L, z_H + embeddings)
        return self.answered(self.H_level(z_H, z_L), z_L)


class _WithCarry(nn.Module):
    inner_kind: type[Inner]

    def __init__(self, H_cycles: int = 3, L_cycles: int = 2, forward_dtype: str = "float32") -> None:
        super().__init__()
        config = SimpleNamespace(
            H_cycles=H_cycles,
            L_cycles=L_cycles,
            forward_dtype=forward_dtype,
            vocab_size=VOCABULARY,
            num_puzzle_identifiers=3,
            seq_len=TOKENS,
            halt_max_steps=4,
        )
        self.config, self.inner = config, self.inner_kind(config)

    def initial_carry(self, batch: dict[str, Tensor]) -> Carry:
        rows = len(batch["inputs"])
        return Carry(
            inner_carry=self.inner.empty_carry(rows),
            steps=torch.zeros(rows, dtype=torch.int32),
            halted=torch.ones(rows, dtype=torch.bool),
            current_data={name: torch.empty_like(value) for name, value in batch.items()},
        )

    def forward(self, carry: Carry, batch: dict[str, Tensor]) -> tuple[Carry, dict[str, Tensor]]:
        inner_carry = self.inner.reset_carry(carry.halted, carry.inner_carry)
        steps = torch.where(carry.halted, 0, carry.steps)
        data = {
            name: torch.where(carry.halted.view(-1, *[1] * (batch[name].ndim - 1)), batch[name], value)
            for name, value in carry.current_data.items()
        }
        inner_carry, logits, q_logits = self.inner(inner_carry, data)
        with torch.no_grad():
            steps = steps + 1
            halted = steps >= self.config.halt_max_steps
        return Carry(inner_carry, steps, halted, data), {"logits": logits, "q_halt_logits": q_logits[:, 0]}


class TinyRecursiveReasoningModel_ACTV1(_WithCarry):
    inner_kind = TRMInner


class HierarchicalReasoningModel_ACTV1(_WithCarry):
    inner_kind = HRMInner


def puzzle_batch(batch: int = 3) -> dict[str, Tensor]:
    return {"inputs": ids(batch), "puzzle_identifiers": torch.arange(batch) % 3}


class RavenForCausalLM(nn.Module):
    """A random first state, the input injected by an adapter, most iterations under ``no_grad``, and a counter of blocks."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.config, self.noise = SimpleNamespace(vocab_size=VOCABULARY), noise
        self.wte, self.prelude = nn.Embedding(VOCABULARY, WIDTH), Block(causal=True)
        self.adapter, self.core_block = nn.Linear(2 * WIDTH, WIDTH), nn.ModuleList(Block(causal=True) for _ in range(2))
        self.ln_f, self.coda, self.lm_head = nn.RMSNorm(WIDTH), Block(causal=True), nn.Linear(WIDTH, VOCABULARY)
        self.register_buffer("freqs_cis", torch.randn(1, TOKENS, 1, 4))

    def initialize_state(self, embeddings: Tensor) -> Tensor:
        return torch.randn_like(embeddings)

    def core_block_forward(self, x, embeddings, freqs_cis, mask, cache, block_idx, attention_maps):
        x = self.ln_f(self.adapter(torch.cat([x, embeddings], dim=-1)))
        for index, block in enumerate(self.core_block, start=1):
            x = block(x, mask)
            attention_maps[int(block_idx + index)] = None
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        return x, block_idx + index, attention_maps

    def forward(self, input_ids: Tensor, num_steps: int = 4, use_cache: bool = True, **unused) -> dict[str, Tensor]:
        embeddings = self.prelude(self.wte(input_ids))
        x, block_idx, maps = self.initialize_state(embeddings), torch.tensor(-1), {}
        with torch.no_grad():
            for _ in range(num_steps):
                previous = x
                x, block_idx, maps = self.core_block_forward(
                    previous, embeddings, self.freqs_cis, None, None, block_idx, maps
                )
        return {"logits": self.lm_head(self.coda(self.ln_f(x))), "latent": x}


class OuroForCausalLM(nn.Module):
    """All layers, then the norm, and an exit gate beside it; nothing is recalled."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.total_ut_steps = 4
            self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.layers = nn.ModuleList(Block(causal=True) for _ in range(2))
            self.norm, self.early_exit_gate = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 1)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
            hidden, gates = self.embed_tokens(input_ids), []
            for _ in range(self.total_ut_steps):
                for layer in self.layers:
                    hidden = layer(hidden, attention_mask)
                hidden = self.norm(hidden)
                gates.append(self.early_exit_gate(hidden))
            return hidden, gates

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=VOCABULARY)
        self.model, self.lm_head = self.Decoder(), nn.Linear(WIDTH, VOCABULARY)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = True
    ) -> dict[str, Tensor]:
        assert not use_cache, "a cache would hold a key for every loop"
        return {"logits": self.lm_head(self.model(input_ids, attention_mask)[0])}


class Parcae(nn.Module):
    """A linear injection h -> a h + B e with 0 < a < 1 by construction, then blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=VOCABULARY)
        self.embed, self.prelude = nn.Embedding(VOCABULARY, WIDTH), Block(causal=True)
        self.log_rate, self.inject = nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, WIDTH)
        self.core, self.head = Block(causal=True), nn.Linear(WIDTH, VOCABULARY)

    def core_block_forward(self, h: Tensor, e: Tensor) -> Tensor:
        h = torch.exp(-self.log_rate.exp()) * h + self.inject(e)
        return h + 0.3 * (self.core(h) - h)

    def forward(self, input_ids: Tensor, num_steps: int = 4) -> Tensor:
        e = self.prelude(self.embed(input_ids))
        h = torch.zeros_like(e)
        for _ in range(num_steps):
            h = self.core_block_forward(h, e)
        return self.head(h)


def loop_index_embedding(h: Tensor, loop_t: int, loop_dim: int) -> Tensor:
    """Add a code of the loop's index to the first channels."""
    angles = loop_t / 10000 ** (torch.arange(0, loop_dim, 2, dtype=h.dtype) / loop_dim)
    return h + F.pad(torch.cat([angles.sin(), angles.cos()]), (0, h.shape[-1] - loop_dim))


class MythosBlock(Block):
    """A block that is given positions, a mask and a cache, as those of OpenMythos are."""

    def forward(self, x: Tensor, freqs_cis: Tensor, mask: Tensor | None = None, kv_cache=None, cache_key="") -> Tensor:
        x = x + self.attention(self.norm(x) + freqs_cis)
        return x + self.mlp(x)


class OpenMythos(nn.Module):
    """The index of the loop is embedded and chooses a LoRA in every iteration; the readout weighs the states of all."""

    class Injection(nn.Module):
        """h -> A h + B e + out, where 0 < A < 1 by construction."""

        def __init__(self) -> None:
            super().__init__()
            self.log_A, self.B = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.full((WIDTH,), 0.1))

        def get_A(self) -> Tensor:
            return torch.exp(-torch.exp(self.log_A))

        def forward(self, h: Tensor, e: Tensor, out: Tensor) -> Tensor:
            return self.get_A() * h + self.B * e + out

    class LoRA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.scale = nn.Linear(WIDTH, 2, bias=False), nn.Embedding(8, 2)
            self.up = nn.Parameter(torch.randn(2, WIDTH))

        def forward(self, x: Tensor, t: int) -> Tensor:
            return self.down(x) * self.scale(torch.tensor(min(t, 7))) @ self.up

    class Halting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halt = nn.Linear(WIDTH, 1)

        def forward(self, h: Tensor) -> Tensor:
            return torch.sigmoid(self.halt(h) - 1).squeeze(-1)

    class Recurrent(nn.Module):
        def __init__(self, cfg: SimpleNamespace) -> None:
            super().__init__()
            self.cfg, self.loop_dim, self.norm = cfg, WIDTH // 4, nn.RMSNorm(WIDTH)
            self.block, self.injection = MythosBlock(causal=True), OpenMythos.Injection()
            self.act, self.lora = OpenMythos.Halting(), OpenMythos.LoRA()

        def forward(self, h: Tensor, e: Tensor, freqs_cis: Tensor, mask=None, n_loops=None, kv_cache=None) -> Tensor:
            halted = torch.zeros(h.shape[:2], dtype=torch.bool)
            spent, h_out = torch.zeros(h.shape[:2]), torch.zeros_like(h)
            for t in range(n_loops or self.cfg.max_loop_iters):
                combined = self.norm(loop_index_embedding(h, t, self.loop_dim) + e)
                out = self.block(combined, freqs_cis, mask, kv_cache, f"recurrent_loop_{t}")
                h = self.injection(h, e, out + self.lora(out, t))
                p, running = self.act(h), (~halted).float()
                weight = torch.where(spent + p >= self.cfg.act_threshold, (1 - spent).clamp(min=0), p) * running
                h_out = h_out + weight.unsqueeze(-1) * h
                spent = spent + p * running
                halted = halted | (spent >= self.cfg.act_threshold)
                if halted.all() and kv_cache is None:
                    break
            return h_out

    def __init__(self) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(vocab_size=VOCABULARY, max_loop_iters=4, act_threshold=0.99)
        self.embed, self.recurrent = nn.Embedding(VOCABULARY, WIDTH), self.Recurrent(self.cfg)
        self.prelude, self.coda = (nn.ModuleList([MythosBlock(causal=True)]) for _ in range(2))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("freqs_cis", torch.randn(64, WIDTH))

    def forward(self, input_ids: Tensor, n_loops: int | None = None, kv_cache=None) -> Tensor:
        x, tokens = self.embed(input_ids), input_ids.shape[1]
        freqs, mask = self.freqs_cis[:tokens], torch.full((1, 1, tokens, tokens), -torch.inf).triu(1)
        for number, layer in enumerate(self.prelude):
            x = layer(x, freqs, mask, kv_cache, f"prelude_{number}")
        x = self.recurrent(x, x, freqs, mask, n_loops, kv_cache)
        for number, layer in enumerate(self.coda):
            x = layer(x, freqs, mask, kv_cache, f"coda_{number}")
        return self.head(self.norm(x))


class DTNet(nn.Module):
    """A convolutional net with recall: in eval mode it returns what it answers after every iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(1, 6, 3, padding=1)
        self.recur_block = nn.Sequential(
            nn.Conv2d(7, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.Tanh()
        )
        self.head = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor, iters_to_do: int = 4) -> Tensor:
        thought = self.projection(x)
        outputs = torch.zeros(len(x), iters_to_do, 2, *x.shape[2:])
        for i in range(iters_to_do):
            thought = self.recur_block(torch.cat([thought, x], 1))
            outputs[:, i] = self.head(thought)
        return outputs


class Sotaku(nn.Module):
    """The state is the hidden state and the softmax of the predictions; the input enters at the start alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Embedding(VOCABULARY, WIDTH), Block()
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.feed = nn.Linear(VOCABULARY, WIDTH)

    def forward(self, input_ids: Tensor, iterations: int = 4) -> Tensor:
        hidden = self.embed(input_ids)
        predictions = torch.zeros(*input_ids.shape, VOCABULARY)
        for _ in range(iterations):
            hidden = self.norm(self.block(hidden + self.feed(predictions)))
            logits = self.head(hidden)
            predictions = logits.softmax(-1)
        return logits


class GRULoop(nn.Module):
    """``nn.GRU`` as a loop: its state has the layers first and the batch second."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.head = (
            nn.Linear(3, WIDTH),
            nn.GRU(WIDTH, WIDTH, 2, batch_first=True),
            nn.Linear(WIDTH, 2),
        )

    def forward(self, x: Tensor, iterations: int = 4) -> Tensor:
        e = self.embed(x)[:, None]
        h = torch.zeros(2, len(x), WIDTH)
        for _ in range(iterations):
            _, h = self.gru(e, h)
        return self.head(h[-1])


class Cell(nn.Module):
    """A step for small models that go wrong in one way each."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.input = nn.Linear(WIDTH, WIDTH), nn.Linear(3, WIDTH)

    def forward(self, z: Tensor, x: Tensor, *others) -> Tensor:
        return torch.tanh(0.5 * self.state(z) + self.input(x))


class Small(nn.Module):
    """Iterates a cell from zeros; subclasses do something that no loop may do."""

    def __init__(self, iterations: int = 5) -> None:
        super().__init__()
        self.iterations, self.cell, self.head = iterations, Cell(), nn.Linear(WIDTH, 2)
        self.dropout = nn.Dropout(0.5)

    def begin(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), WIDTH)

    def iterate(self, z: Tensor, x: Tensor, t: int) -> Tensor:
        return self.cell(z, x)

    def forward(self, x: Tensor) -> Tensor:
        z = self.begin(x)
        for t in range(self.iterations):
            z = self.iterate(z, x, t)
        return self.head(z)


class Halting(Small):
    """Stops when the batch's largest change is small."""

    def forward(self, x: Tensor) -> Tensor:
        z, change = self.begin(x), 1.0
        while change > 0.02:
            before, z = z, self.cell(z, x)
            change = float((z - before).abs().max())
        return self.head(z)


class TimeDependent(Small):
    def iterate(self, z, x, t):
        return self.cell(z, x, t) * (1 - 0.1 * t)


class ToldTheTime(Small):
    """The cell itself takes the index of the iteration."""

    class Timed(Cell):
        def forward(self, z, x, t):
            return super().forward(z, x) + 0.1 * t

    def __init__(self) -> None:
        super().__init__()
        self.cell = self.Timed()

    def iterate(self, z, x, t):
        return self.cell(z, x, t)


class Noisy(Small):
    def iterate(self, z, x, t):
        return self.cell(z, x) + 0.1 * torch.randn_like(z)


class InPlace(Small):
    def forward(self, x):
        z = self.begin(x)
        for _ in range(self.iterations):
            z += 0.1 * self.cell(z, x)
        return self.head(z)


class Growing(Small):
    """The sequence grows by a token in every iteration."""

    def forward(self, x):
        z = self.begin(x)[:, None]
        for _ in range(self.iterations):
            z = torch.cat([z, self.cell(z[:, -1:], x[:, None])], 1)
        return self.head(z[:, -1])


class Uninitialized(Small):
    def begin(self, x):
        return torch.empty(len(x), WIDTH)


class Historic(Small):
    """Every iteration takes the states of the two before it."""

    def forward(self, x):
        older = z = self.begin(x)
        for _ in range(self.iterations):
            older, z = z, self.cell(z, x) + 0.3 * older
        return self.head(z)


class Reader(Small):
    """The readout weighs all states."""

    def forward(self, x):
        z, states = self.begin(x), []
        for _ in range(self.iterations):
            z = self.cell(z, x)
            states.append(z)
        return self.head(torch.stack(states).mean(0))


class Remembering(Small):
    """The cell keeps a state of its own between calls, where no argument shows it."""

    class Keeper(Cell):
        def forward(self, z, x):
            kept = getattr(self, "kept", None)
            kept = torch.zeros_like(z) if kept is None or len(kept) != len(z) else kept
            self.kept = super().forward(z, x) + 0.5 * kept
            return self.kept

    def __init__(self) -> None:
        super().__init__()
        self.cell = self.Keeper()

    def forward(self, x):
        self.cell.kept = None
        return super().forward(x)


class Mixing(Small):
    """The examples of a batch are centred together."""

    def iterate(self, z, x, t):
        z = self.cell(z, x)
        return z - z.mean(0, keepdim=True)


class Pooled(Small):
    """The state belongs to the whole batch."""

    def begin(self, x):
        return torch.zeros(1, WIDTH)

    def iterate(self, z, x, t):
        return self.cell(z, x).mean(0, keepdim=True)

    def forward(self, x):
        return super().forward(x).expand(len(x), 2)


class Shared(Small):
    """A norm for other ends, here and there."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.embed = nn.LayerNorm(WIDTH), nn.ModuleList(nn.Linear(3, WIDTH) for _ in range(3))

    def forward(self, x):
        return self.head(sum(self.norm(embed(x)) for embed in self.embed))


class Supervised(Small):
    def forward(self, x, labels):
        return F.cross_entropy(super().forward(x), labels)


class Inferring(Small):
    """Runs its iterations in inference mode, where no derivative gets through."""

    def iterate(self, z, x, t):
        with torch.inference_mode():
            return self.cell(z, x)


class Secretive(Small):
    """Carries a second state in a local variable."""

    def forward(self, x):
        z, other = self.begin(x), torch.ones(len(x), WIDTH)
        for _ in range(self.iterations):
            z = self.cell(z + other, x)
            other = torch.sin(other + z)
        return self.head(z)


class Detached(Small):
    """Hides half of its step from autograd."""

    def iterate(self, z, x, t):
        return 0.5 * self.cell(z.detach(), x) + 0.5 * self.cell.state(z)
