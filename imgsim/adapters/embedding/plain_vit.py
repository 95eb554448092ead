"""open_clip's vision transformer once more, in the operations that ONNX Runtime is fast at. Imports torch."""

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from imgsim.adapters.embedding.preprocess import Preprocess


def why_not_plain(visual: nn.Module) -> str:
    """Why ``PlainVit`` does not compute what `visual` does; empty where it does."""
    if type(visual) is not VisionTransformer:
        return f"its image tower is a {type(visual).__name__}"
    if visual.attn_pool is not None or visual.pool_type != "tok":
        return "it pools over all tokens"
    if visual.output_tokens:
        return "it gives its tokens too"
    for block in visual.transformer.resblocks:
        if type(block) is not ResidualAttentionBlock or block.attn.in_proj_weight is None:
            return f"its blocks are of the kind {type(block).__name__}"
    return ""


class PlainVit(nn.Module):
    """``(n, height, width, 3)`` uint8 to ``(n, dimensions)`` float32, as normalisation and `visual` give.

    Patches are cut out of the pixels as they lie and embedded by one Linear, which holds the convolution
    and the normalisation; so what int8 quantises there are the whole numbers 0 to 255, without loss. The last
    block is computed for the class token alone, as nothing else of it is used.
    """

    def __init__(self, visual: VisionTransformer, preprocess: Preprocess) -> None:
        super().__init__()
        (self.rows, self.columns), (self.high, self.wide) = visual.grid_size, visual.patch_size
        kernel = visual.conv1.weight.double()  # (width, 3, high, wide)
        mean, std = (torch.tensor(value, dtype=torch.double).view(1, 3, 1, 1) for value in _triples(preprocess))
        positions = visual.positional_embedding.double()
        shift = -(kernel * mean / std).sum((1, 2, 3))
        if visual.conv1.bias is not None:
            shift = shift + visual.conv1.bias.double()
        kernel = (kernel / (255 * std)).permute(2, 3, 1, 0).flatten(0, 2)
        self.kernel = nn.Parameter(kernel.float())
        self.positions = nn.Parameter((positions[1:] + shift).float())
        self.class_token = nn.Parameter((positions[:1] + visual.class_embedding.double()).float()[None])
        self.norm = visual.ln_pre
        *blocks, last = [_Block(block, len(positions)) for block in visual.transformer.resblocks]
        self.blocks = nn.ModuleList(blocks)
        self.last = last
        self.final_norm = visual.ln_post
        self.projection = visual.proj

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = pixels[:, : self.rows * self.high, : self.columns * self.wide]
        patches = pixels.reshape(-1, self.rows, self.high, self.columns, self.wide * 3).transpose(2, 3)
        patches = patches.reshape(-1, self.rows * self.columns, self.high * self.wide * 3)
        tokens = patches.float() @ self.kernel + self.positions
        first = self.class_token.expand(tokens.shape[0], -1, -1)
        tokens = self.norm(torch.cat([first, tokens], dim=1))
        for block in self.blocks:
            tokens = block(tokens)
        pooled = self.final_norm(self.last.first_token(tokens)).flatten(1)
        rows: Tensor = pooled if self.projection is None else pooled @ self.projection
        return rows


class _Block(nn.Module):
    """One residual block over `length` tokens: for all of them, or for the first."""

    def __init__(self, block: ResidualAttentionBlock, length: int) -> None:
        super().__init__()
        self.block, self.length = block, length
        self.heads = block.attn.num_heads
        self.width = block.attn.embed_dim
        # The scale of the scores, once, in the weights of the queries.
        scale = torch.ones(3 * self.width, 1)
        scale[: self.width] = (self.width // self.heads) ** -0.5
        bias = block.attn.in_proj_bias
        bias = torch.zeros(3 * self.width) if bias is None else bias.detach()
        self.weight = nn.Parameter(block.attn.in_proj_weight.detach() * scale)
        self.bias = nn.Parameter(bias * scale[:, 0])

    def forward(self, tokens: Tensor) -> Tensor:
        projected = functional.linear(self.block.ln_1(tokens), self.weight, self.bias)
        queries, keys, values = projected.chunk(3, dim=2)
        return self._finish(tokens, self._attend(queries, keys, values, self.length))

    def first_token(self, tokens: Tensor) -> Tensor:
        first = tokens[:, :1]
        queries = functional.linear(self.block.ln_1(first), self.weight[: self.width], self.bias[: self.width])
        others = functional.linear(self.block.ln_1(tokens), self.weight[self.width :], self.bias[self.width :])
        keys, values = others.chunk(2, dim=2)
        return self._finish(first, self._attend(queries, keys, values, 1))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, asking: int) -> Tensor:
        size = self.width // self.heads
        queries = queries.reshape(-1, asking, self.heads, size).transpose(1, 2)
        keys = keys.reshape(-1, self.length, self.heads, size).permute(0, 2, 3, 1)
        values = values.reshape(-1, self.length, self.heads, size).transpose(1, 2)
        mixed = torch.softmax(queries @ keys, dim=-1) @ values
        attended: Tensor = self.block.attn.out_proj(mixed.transpose(1, 2).reshape(-1, asking, self.width))
        return attended

    def _finish(self, tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + self.block.ls_1(attended)
        finished: Tensor = tokens + self.block.ls_2(self.block.mlp(self.block.ln_2(tokens)))
        return finished


class StockTower(nn.Module):
    """As ``PlainVit``, around any image tower of open_clip as it is."""

    def __init__(self, network: Any, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in _triples(preprocess))
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)

    def forward(self, pixels: Tensor) -> Tensor:
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        rows: Tensor = self.network.encode_image(images)
        return rows


def _triples(preprocess: Preprocess) -> list[tuple[float, ...]]:
    """Mean and deviation, one for each channel."""
    return [value * 3 if len(value) == 1 else value for value in (preprocess.mean, preprocess.std)]
