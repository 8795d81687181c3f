"""The configuration of a Kolmogorov-Arnold Transformer; modeling_kat.py is the model."""

from transformers import PretrainedConfig


class KATConfig(PretrainedConfig):
    """The sizes and options of a KAT; by default of KAT-T.

    Args:
        image_size, patch_size: (height, width) in pixels.
        num_channels: channels of an image.
        hidden_size: the width, the number of channels of a token.
        num_hidden_layers, num_attention_heads: the number of blocks, and of heads in each.
        intermediate_size: the width between the two linear maps of an MLP.
        qkv_bias: biases in the linear maps of queries, keys and values.
        gated: gated MLPs, as SwiGLU, whose activation is a rational.
        first_groups: groups of channels of the first rational of an MLP; 0: there is none.
        num_groups: groups of the second rational, or of the only one.
        degree: (m, n) of the rationals.
        form: "A" or "B", of their denominators.
        share: the coefficients that all groups share: "numerator", "denominator" or "none".
        class_token: a token beside the patches.
        global_pool: the input of the classifier: "token", the class token, or "avg", the mean of
            the patches.
        layer_norm_eps: epsilon of the norms.
    """

    model_type = "kat"
    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    num_channels: int = 3
    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    intermediate_size: int = 768
    qkv_bias: bool = True
    gated: bool = False
    first_groups: int = 8
    num_groups: int = 8
    degree: tuple[int, int] = (5, 4)
    form: str = "A"
    share: str = "numerator"
    class_token: bool = True
    global_pool: str = "token"
    layer_norm_eps: float = 1e-6
