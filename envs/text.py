"""``shakespeare-gpt``: a character-level transformer on the Tiny Shakespeare text."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrcontrol.envs.data import data_file
from lrcontrol.envs.task import Data, Task

CONTEXT, WIDTH, HEADS, BLOCKS = 64, 96, 4, 2
TRAIN, TEST = 1 << 18, 1 << 15  # characters: after a run the loss is measured on all of them


class Block(nn.Module):
    """Causal self-attention and an MLP, each on the normalised stream and added to it (Radford et al. 2019, GPT-2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attend(self, x: Tensor) -> Tensor:
        """Return what each position takes from itself and those before it (Vaswani et al. 2017, eq. 1): (B, T, C)."""
        batch, length, width = x.shape
        parts = self.project_in(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        scores = query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        taken = scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ value
        out: Tensor = self.project_out(taken.transpose(1, 2).reshape(batch, length, width))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream (B, T, C) after this block."""
        x = x + self.attend(self.norm_attention(x))
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out


class GPT(nn.Module):
    """Token and position embeddings, blocks, a last norm and a linear layer to the logits."""

    def __init__(self, tokens: int, context: int, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.logits = nn.LayerNorm(width), nn.Linear(width, tokens)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, T, tokens) of the character after each of x (B, T)."""
        stream = self.token(x) + self.position[: x.shape[-1]]
        out: Tensor = self.logits(self.norm(self.blocks(stream)))
        return out


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B, T, tokens) against targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _windows(text: Tensor) -> Data:
    """Return the text cut into pieces of CONTEXT characters, and the same one character on."""
    length = (len(text) - 1) // CONTEXT * CONTEXT
    return text[:length].view(-1, CONTEXT), text[1 : length + 1].view(-1, CONTEXT)


@functools.cache
def load_text() -> tuple[Data, Data, int]:
    """Return (train, test, tokens): the text's first 2^18 and last 2^15 characters as numbers, of so many kinds."""
    content = data_file("tinyshakespeare", "input.txt").read_text(encoding="utf-8")
    characters = sorted(set(content))
    text = torch.from_numpy(np.searchsorted(characters, list(content)).astype(np.int64))
    return _windows(text[: TRAIN + 1]), _windows(text[-TEST - 1 :]), len(characters)


def shakespeare_gpt(steps: int = 400) -> Task:
    """Return the task: two blocks of width 96 and four heads, 0.24 M parameters, minibatches of 16 × 64 characters."""
    train, test, tokens = load_text()
    return Task(
        name="shakespeare-gpt",
        model=lambda: GPT(tokens, CONTEXT, WIDTH, HEADS, BLOCKS),
        loss=next_token_loss,
        train=train,
        test=test,
        batch_size=16,
        steps=steps,
    )
