"""The Kolmogorov-Arnold Transformer (KAT) for image classification, in PyTorch and transformers.

A KAT is a Vision Transformer whose MLPs learn their activations. An MLP of a Vision Transformer
computes W_2 GELU(W_1 x); an MLP of a KAT computes W_2 F_2(W_1 F_1(x)). F_1 and F_2 are rational
functions with learned coefficients, one function for each group of channels. F_1 starts as the
identity and F_2 as Swish, so that a KAT starts as an ordinary transformer.

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

    Args:
        config: of the model.
        groups: the number of groups.
    """

    def __init__(self, config: KATConfig, groups: int) -> None:
        super().__init__()
        self.form = config.form
        self.groups = groups
        rows_a = 1 if config.share == "numerator" else groups
        rows_b = 1 if config.share == "denominator" else groups
        m, n = config.degree
        self.weight_numerator = nn.Parameter(torch.eye(m + 1)[1].repeat(rows_a, 1))
        self.weight_denominator = nn.Parameter(torch.zeros(rows_b, n))

    def forward(self, x: Tensor) -> Tensor:
        """F(x), with the shape (..., channels) and the dtype of x, computed in float32 at least."""
        a, b = self.weight_numerator, self.weight_denominator
        z = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (self.groups, -1))
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
        width, hidden = config.hidden_size, config.intermediate_size
        has_first = config.first_groups > 0
        self.act1 = GroupRational(config, config.first_groups) if has_first else nn.Identity()
        self.fc1 = nn.Linear(width, hidden)
        self.act2 = GroupRational(config, config.num_groups)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act2(self.fc1(self.act1(x))))


class KATGatedMlp(nn.Module):
    """W_2 (F(W_g x + c_g) * (W_x x + c_x)) + c_2: SwiGLU, as long as F is Swish."""

    def __init__(self, config: KATConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.act = GroupRational(config, config.num_groups)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1_g(x)) * self.fc1_x(x))


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
        self.mlp = KATGatedMlp(config) if config.gated else KATMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class KATForImageClassification(PreTrainedModel):
    """A linear map of patches to tokens, blocks, and a linear classifier, for images of one size.

    Parameters have the names of timm's VisionTransformer.
    """

    config_class = KATConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: KATConfig) -> None:
        super().__init__(config)
        width, (rows, columns) = config.hidden_size, config.patch_size
        tokens = (config.image_size[0] // rows) * (config.image_size[1] // columns)
        proj = nn.Conv2d(config.num_channels, width, (rows, columns), stride=(rows, columns))
        self.patch_embed = nn.ModuleDict({"proj": proj})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + config.class_token, width))
        self.blocks = nn.ModuleList(KATBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Logits (B, classes) of images (B, channels, height, width), and with labels the loss."""
        config = self.config
        if pixel_values.shape[2:] != torch.Size(config.image_size):
            raise ValueError(f"the images must be of {config.image_size} pixels")
        x = self.patch_embed["proj"](pixel_values).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = x[:, 0] if config.global_pool == "token" else x[:, config.class_token :].mean(1)
        logits = self.head(self.norm(x))
        loss = None if labels is None else self.loss_function(labels, logits, config)
        return ImageClassifierOutput(loss=loss, logits=logits)
