"""The configuration of a Kolmogorov-Arnold Transformer; modeling_kat.py is the model."""

from transformers import PretrainedConfig


class KATConfig(PretrainedConfig):
    """The sizes and options of a KAT; by default of KAT-T.

    Args:
        patch_size: (height, width) in pixels.
        num_patches: the number of patches of an image.
        num_channels: channels of an image.
        hidden_size: the width, the number of channels of a token.
        num_hidden_layers, num_attention_heads: the number of blocks, and of heads in each.
        intermediate_size: the width between the two linear maps of an MLP.
        qkv_bias: biases in the linear maps of queries, keys and values.
        numerator: (1 or groups, m + 1), the shape of the coefficients a of a rational function.
        denominator: (1 or groups, n), the shape of the coefficients b.
        form: "A" or "B", of the denominators.
        layer_norm_eps: epsilon of the norms.
    """

    model_type = "kat"
    patch_size: tuple[int, int] = (16, 16)
    num_patches: int = 196
    num_channels: int = 3
    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    intermediate_size: int = 768
    qkv_bias: bool = True
    numerator: tuple[int, int] = (1, 6)
    denominator: tuple[int, int] = (8, 4)
    form: str = "A"
    layer_norm_eps: float = 1e-6
