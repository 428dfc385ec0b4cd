"""The denoiser in plain PyTorch: the same network, names and numbers as crates/microdit, for comparison.

Attention is `scaled_dot_product_attention`, experts gather their tokens (or, as an option, take all of them through
one-hot products), everything else is `nn.Linear`, `layer_norm` and element-wise operations.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def attention_width(dim, head_dim, multiplier):
    width = dim if multiplier == 1.0 else -(-int(dim * multiplier) // (2 * head_dim)) * 2 * head_dim
    return width, width // head_dim


def round_up(width, multiple):
    return -(-width // multiple) * multiple


class Norm(nn.Module):
    """Layer norm with a weight and no bias."""

    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, None, self.eps)


def attend(q, k, v, heads, eps):
    """Queries and keys normalised over the whole width, then split into heads."""
    q, k = (F.layer_norm(x, x.shape[-1:], None, None, eps) for x in (q, k))
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, dim, width, heads, eps, bias):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * width, bias=bias)
        self.proj = nn.Linear(width, dim, bias=bias)
        self.heads, self.eps = heads, eps

    def forward(self, x):
        return self.proj(attend(*self.qkv(x).chunk(3, -1), self.heads, self.eps))


class CrossAttention(nn.Module):
    def __init__(self, dim, heads, eps, bias):
        super().__init__()
        self.q_linear = nn.Linear(dim, dim, bias=bias)
        self.kv_linear = nn.Linear(dim, 2 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)
        self.heads, self.eps = heads, eps

    def forward(self, x, captions):
        k, v = self.kv_linear(captions).chunk(2, -1)
        return self.proj(attend(self.q_linear(x), k, v, self.heads, self.eps))


class SwiGlu(nn.Module):
    def __init__(self, dim, hidden, bias):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=bias)
        self.w2 = nn.Linear(dim, hidden, bias=bias)
        self.w3 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x):
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class Experts(nn.Module):
    def __init__(self, dim, hidden, experts, capacity, one_hot):
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(experts, dim, hidden).normal_(std=0.02))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, dim).normal_(std=0.02))
        self.gate = nn.Linear(dim, experts, bias=False)
        self.capacity, self.one_hot = capacity, one_hot

    def forward(self, x):
        batch, tokens, dim = x.shape
        experts = self.w1.shape[0]
        taken = int(self.capacity * tokens / experts)
        scores = self.gate(x).softmax(-1).transpose(1, 2)  # [batch, experts, tokens]
        weights, chosen = scores.topk(taken, -1)
        if self.one_hot:
            place = F.one_hot(chosen, tokens).to(x.dtype)  # [batch, experts, taken, tokens]
            inputs = torch.einsum("bekn,bnd->bekd", place, x)
        else:
            flat = chosen.flatten(1).unsqueeze(-1).expand(-1, -1, dim)
            inputs = x.gather(1, flat).unflatten(1, (experts, taken))
        hidden = F.gelu(torch.einsum("bekd,edf->bekf", inputs, self.w1))
        output = torch.einsum("bekf,efd->bekd", hidden, self.w2) * weights.unsqueeze(-1)
        if self.one_hot:
            return torch.einsum("bekn,bekd->bnd", place, output)
        # Under autocast the products are bf16 where the tokens are f32.
        return torch.zeros_like(x, dtype=output.dtype).scatter_add(1, flat, output.flatten(1, 2))


class Block(nn.Module):
    def __init__(self, c, dim, qkv, ffn, experts):
        super().__init__()
        bias, eps = c["use_bias"], c["norm_eps"]
        self.norm1, self.norm2, self.norm3 = (Norm(dim, eps) for _ in range(3))
        self.attn = SelfAttention(dim, *attention_width(dim, c["head_dim"], qkv), eps, bias)
        self.cross_attn = CrossAttention(dim, dim // c["head_dim"], eps, bias)
        hidden = int(dim * ffn)
        if experts:
            hidden = round_up(hidden, c["multiple_of"])
            self.mlp = Experts(dim, hidden, c["num_experts"], c["expert_capacity"], c["one_hot"])
        else:
            self.mlp = SwiGlu(dim, round_up(int(2 * hidden / 3), c["multiple_of"]), bias)
        self.adaLN_modulation = nn.Sequential(nn.GELU("tanh"), nn.Linear(c["dim"], 6 * dim))

    def forward(self, x, captions, condition):
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation(condition).unsqueeze(1).chunk(6, -1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        x = x + self.cross_attn(self.norm2(x), captions)
        return x + gate2 * self.mlp(self.norm3(x) * (1 + scale2) + shift2)


class CaptionBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        dim, bias, eps = c["dim"], c["use_bias"], c["norm_eps"]
        self.norm1, self.norm2 = Norm(dim, eps), Norm(dim, eps)
        self.attn = SelfAttention(dim, dim, dim // c["head_dim"], eps, bias)
        self.mlp = SwiGlu(dim, round_up(int(2 * 4 * dim / 3), c["multiple_of"]), bias)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Mlp(nn.Module):
    def __init__(self, inputs, dim, eps):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(inputs, dim), Norm(dim, eps), nn.Linear(dim, dim)

    def forward(self, x):
        return self.fc2(self.norm(F.gelu(self.fc1(x), approximate="tanh")))


class Timestep(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(512, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        frequencies = torch.exp(-math.log(10000) * torch.arange(256) / 256)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t):
        angles = t[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1))


class Final(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.linear = nn.Linear(c["dim"], c["patch_size"] ** 2 * c["in_channels"])
        self.norm_final = Norm(c["dim"], c["norm_eps"])
        self.adaLN_modulation = nn.Sequential(nn.GELU("tanh"), nn.Linear(c["dim"], 2 * c["dim"]))

    def forward(self, x, condition):
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, -1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class PatchEmbed(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.proj = nn.Conv2d(c["in_channels"], c["dim"], c["patch_size"], c["patch_size"])

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def projection(inputs, outputs, c):
    return nn.Sequential(Norm(inputs, c["norm_eps"]), nn.Linear(inputs, outputs, bias=c["use_bias"]))


class Dit(nn.Module):
    """`config`: the keys of the golden files' `dit`, and `one_hot`."""

    def __init__(self, config):
        super().__init__()
        c = self.config = {"one_hot": False, **config}
        dim, depth, eps = c["dim"], c["depth"], c["norm_eps"]
        tokens = (c["input_size"] // c["patch_size"]) ** 2
        self.register_buffer("pos_embed", torch.zeros(1, tokens, dim))
        self.register_buffer("mask_token", torch.zeros(1, 1, c["patch_size"] ** 2 * c["in_channels"]))
        self.x_embedder = PatchEmbed(c)
        self.t_embedder = Timestep(dim)
        self.y_embedder = nn.Module()
        self.y_embedder.y_proj = Mlp(c["caption_channels"], dim, eps)
        self.y_emb_preprocess = CaptionBlock(c)
        self.pooled_y_emb_process = Mlp(dim, dim, eps)
        every = c["experts_every_n"]
        mixer = c["patch_mixer_dim"]
        self.patch_mixer = nn.ModuleList(
            Block(c, mixer, c["patch_mixer_qkv_ratio"], c["patch_mixer_mlp_ratio"], i > 0 and (i + 1) % every == 0)
            for i in range(c["patch_mixer_depth"])
        )
        if mixer != dim:
            self.patch_mixer_map_xin = projection(dim, mixer, c)
            self.patch_mixer_map_xout = projection(mixer, dim, c)
            self.patch_mixer_map_y = projection(dim, mixer, c)
        self.blocks = nn.ModuleList(
            Block(c, dim, c["qkv_multipliers"][i], c["ffn_multipliers"][i], i + 1 != depth and (i + 1) % every == 0)
            for i in range(depth)
        )
        self.final_layer = Final(c)

    def forward(self, x, t, captions, keep=None):
        """Tokens of the network's output; `keep` `[batch, kept]` are the tokens that survive the mask."""
        mapped = hasattr(self, "patch_mixer_map_xin")
        x = self.x_embedder(x) + self.pos_embed
        captions = self.y_emb_preprocess(self.y_embedder.y_proj(captions))
        condition = self.pooled_y_emb_process(captions.mean(1)) + self.t_embedder(t)
        words = self.patch_mixer_map_y(captions) if mapped else captions
        x = self.patch_mixer_map_xin(x) if mapped else x
        for block in self.patch_mixer:
            x = block(x, words, condition)
        if keep is not None:
            x = x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        x = self.patch_mixer_map_xout(x) if mapped else x
        for block in self.blocks:
            x = block(x, captions, condition)
        return self.final_layer(x, condition)


def patchify(x, patch):
    """`[batch, channels, height, width]` to the order of the network's output."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)


def unpatchify(tokens, config):
    """Inverse of `patchify`, for a square image."""
    patch, grid = config["patch_size"], config["input_size"] // config["patch_size"]
    image = tokens.reshape(-1, grid, grid, patch, patch, config["in_channels"]).permute(0, 5, 1, 3, 2, 4)
    return image.flatten(4, 5).flatten(2, 3)


def edm_loss(dit, clean, noise, sigma, captions, keep, sigma_data=0.9):
    """Mean weighted squared error of the denoised estimate over the kept patches (EDM, arXiv 2206.00364)."""
    patch = dit.config["patch_size"]
    total = sigma**2 + sigma_data**2
    wide = sigma[:, None, None, None]
    noisy = clean + noise * wide
    output = dit(noisy / total.sqrt()[:, None, None, None], sigma.log() / 4, captions, keep)
    noisy, clean = patchify(noisy, patch), patchify(clean, patch)
    if keep is not None:
        index = keep.unsqueeze(-1).expand(-1, -1, clean.shape[-1])
        noisy, clean = noisy.gather(1, index), clean.gather(1, index)
    c_skip, c_out = sigma_data**2 / total, sigma * sigma_data / total.sqrt()
    denoised = noisy * c_skip[:, None, None] + output.float() * c_out[:, None, None]
    weight = total / (sigma * sigma_data) ** 2
    return ((denoised - clean) ** 2).mean((1, 2)).mul(weight).mean()
