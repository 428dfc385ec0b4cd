"""Heun's sampler of EDM with guidance, in plain PyTorch."""

import math

import torch

from model import unpatchify


def heun(dit, config, noise, captions, steps, guidance, sigma_data):
    """Images drawn from `noise`; both halves of the guidance go through the network in one batch."""
    batch = len(noise)
    captions = torch.cat([captions, torch.zeros_like(captions)])

    def denoise(x, sigma):
        total = sigma**2 + sigma_data**2
        t = torch.tensor(math.log(sigma) / 4).expand(2 * batch)
        tokens = dit(torch.cat([x, x]) / math.sqrt(total), t, captions).float()
        conditional, unconditional = unpatchify(tokens, config).chunk(2)
        output = unconditional + (conditional - unconditional) * guidance
        return x * (sigma_data**2 / total) + output * (sigma * sigma_data / math.sqrt(total))

    first, last = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = [(first + i / max(steps - 1, 1) * (last - first)) ** 7 for i in range(steps)] + [0.0]
    x = noise * sigmas[0]
    for sigma, following in zip(sigmas, sigmas[1:]):
        slope = (x - denoise(x, sigma)) / sigma
        euler = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (euler - denoise(euler, following)) / following) / 2
        x = x + (following - sigma) * slope
    return x
