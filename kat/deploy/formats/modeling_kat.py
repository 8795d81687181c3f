"""The Kolmogorov-Arnold Transformer (KAT) for image classification, in PyTorch and transformers.

A KAT is a Vision Transformer whose MLPs learn their activations. An MLP of a Vision Transformer
computes W_2 GELU(W_1 x); an MLP of a KAT computes W_2 F_2(W_1 F_1(x)). F_1 and F_2 are rational
functions with learned coefficients, one function for each group of channels. F_1 starts as the
identity and F_2 as SiLU, so that a KAT starts as an ordinary transformer.

Paper: Yang and Wang, Kolmogorov-Arnold Transformer, ICLR 2025, https://arxiv.org/abs/2409.10594.

`kat export` of the Python package kolmogorov-arnold-transformer (MIT license) writes this file. The
package has kernels for the rational functions and trains from scratch. This file evaluates the
plain formula, which takes more time and memory; torch.compile fuses it.

Weight decay would pull F towards zero: train weight_numerator and weight_denominator without it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations import use_kernel_forward_from_hub
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_kat import KATConfig


@use_kernel_forward_from_hub("GroupRational")
class GroupRational(nn.Module):
    """F(x) = P(x) / Q(x) with learned coefficients, a function for each group of channels.

        P(x) = a_0 + a_1 x + ... + a_m x^m
        Q(x) = 1 + |b_1| |x| + ... + |b_n| |x|^n        in form A
        Q(x) = 1 + |b_1 x + ... + b_n x^n|              in form B

    Q is at least 1, so that F has no poles. Groups are contiguous and of the same size. The
    coefficients a are weight_numerator (1 or groups, m + 1), and b are weight_denominator
    (1 or groups, n); the groups share a single row.

    Until trained weights are loaded, F is the identity. Powers of x overflow for |x| above 1e7.
    """

    def __init__(self, config: KATConfig) -> None:
        super().__init__()
        self.form = config.form
        rows, terms = config.numerator
        self.weight_numerator = nn.Parameter(torch.eye(terms)[1].repeat(rows, 1))
        self.weight_denominator = nn.Parameter(torch.zeros(config.denominator))

    def forward(self, x: Tensor) -> Tensor:
        """F(x), with the shape (..., channels) and the dtype of x, computed in float32."""
        a, b = self.weight_numerator, self.weight_denominator
        z = x.float().unflatten(-1, (max(len(a), len(b)), -1))
        if self.form == "A":
            s = z.abs() * polynomial(z.abs(), magnitude(b))
        else:
            s = magnitude(z * polynomial(z, b))
        y = polynomial(z, a) / (1 + s)
        return y.flatten(-2).to(x.dtype)


def polynomial(x: Tensor, coefficients: Tensor) -> Tensor:
    """c_0 + c_1 x + c_2 x^2 + ... by Horner's rule.

    Args:
        x: (..., groups, channels of a group).
        coefficients: (1 or groups, degree + 1).
    """
    y = torch.zeros_like(x)
    for c in reversed(coefficients.unbind(1)):
        y = y * x + c[:, None]
    return y


def magnitude(x: Tensor) -> Tensor:
    """|x| with slope 1 at 0: with slope 0, as torch.abs has, b = 0 would never change."""
    return torch.where(x < 0, -x, x)


class KATMlp(nn.Module):
    """W_2 F_2(W_1 F_1(x) + c_1) + c_2."""

    def __init__(self, config: KATConfig) -> None:
        super().__init__()
        self.act1 = GroupRational(config)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act2 = GroupRational(config)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act2(self.fc1(self.act1(x))))


class KATAttention(nn.Module):
    """Softmax attention of all tokens to all tokens."""

    def __init__(self, config: KATConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, tokens, 3, heads, channels)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


class KATBlock(GradientCheckpointingLayer):
    """x + attn(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: KATConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = KATAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = KATMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class KATForImageClassification(PreTrainedModel):
    """A linear map of patches to tokens, blocks, and a linear classifier of the class token.

    It takes images of one size. Parameters have the names of timm's VisionTransformer.
    """

    config_class = KATConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: KATConfig) -> None:
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        proj = nn.Conv2d(config.num_channels, width, patch, stride=patch)
        self.patch_embed = nn.ModuleDict({"proj": proj})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width))
        self.blocks = nn.ModuleList(KATBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Logits (B, classes) of images (B, channels, height, width), and with labels the loss."""
        patches = self.patch_embed["proj"](pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x[:, 0]))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)
