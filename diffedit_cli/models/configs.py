"""Validates the JSON files of a model before anything is built from them: a stranger may have written them.

Nothing heavy is imported, so that a value that would exhaust the memory is reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffedit_cli.engine.networks.family import Family
from diffedit_cli.errors import ModelError
from diffedit_cli.models import weights
from diffedit_cli.storage import paths

WIDTH, LAYERS, IDS = 2**16, 256, 2**20  # upper limits of sizes, layers and token ids in settings
ADDED = 10_000  # upper limit of tokens added to a vocabulary: each is searched for in every prompt
BLOCKS = 8  # upper limit of the blocks of a network, and of the length of most lists
PLACES = 100  # upper limit of places that a model knows: each costs a network evaluation
LEAST_TENSORS = 4  # per layer of any kind
SPARE = 2**20  # computed values that are allowed beyond the size of the weights
SMALL = (".json", ".txt", ".model")  # suffixes of files of settings and vocabularies
MOST_PIECES = 8_000_000  # bytes of a sentencepiece vocabulary (.model): T5's has 0.8 million, mT5's 4.3 million
SIDE = 4096  # upper limit of a side in pixels
QUANTISATION, QUANTISERS = "quantization_config", ("bitsandbytes", "torchao")
UNLIMITED = int(1e30)  # value that transformers writes for a tokenizer without a limit


@dataclass(frozen=True)
class Kind:
    """The valid values of a setting, in words and as a test of one value.

    `several` is the largest length of a list of such values, 0 if a list is not valid. `only` requires a list, of at
    least one value. `nothing` allows None.
    """

    words: str
    fits: Callable[[Any], bool]
    several: int = 0
    only: bool = False
    nothing: bool = False

    def holds(self, value: Any, depth: int = 2) -> bool:
        """Whether a value is valid; lists may hold lists of valid values."""
        if value is None:
            return self.nothing
        if isinstance(value, list) and self.several:
            least = 1 if self.only else 0
            return depth > 0 and least <= len(value) <= self.several and all(self._part(one, depth) for one in value)
        return not self.only and self.fits(value)

    def _part(self, value: Any, depth: int) -> bool:
        return replace(self, only=False, nothing=False).holds(value, depth - 1)


def _whole(most: int, least: int = 0) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < IDS and math.isfinite(value)


def _is_token(value: Any) -> bool:
    return _TEXT.fits(value) or (isinstance(value, dict) and _TEXT.fits(value.get("content")))


def _is_size(value: Any) -> bool:
    if isinstance(value, dict) and value.keys() == {"shortest_edge", "longest_edge"}:  # Qwen2-VL's numbers of pixels
        return all(map(_whole(SIDE**2, 1).fits, value.values()))
    return all(map(_whole(SIDE, 1).fits, value.values() if isinstance(value, dict) else [value]))


_NUMBER = Kind("a number", _is_number)
_LIMIT = Kind("a number", lambda value: type(value) in (int, float) and math.isfinite(value))  # of any size
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_TEXT = Kind("a text", lambda value: isinstance(value, str) and len(value) <= WIDTH)
_TOKEN = Kind("a token", _is_token, several=ADDED, nothing=True)
_ADDED = Kind(
    f"at most {ADDED} tokens", lambda value: isinstance(value, dict | list) and len(value) <= ADDED, nothing=True
)
_SIZE = Kind(f"a size up to {SIDE} pixels", _is_size, nothing=True)
_LENGTH = Kind(
    f"a length up to {WIDTH}",
    lambda value: type(value) is int and (1 <= value <= WIDTH or value == UNLIMITED),
)
_OBJECT = Kind("an object", lambda value: isinstance(value, dict), nothing=True)


def _perhaps(kind: Kind) -> Kind:
    return replace(kind, nothing=True)


def _or_several(kind: Kind, most: int = BLOCKS) -> Kind:
    return replace(kind, several=most)


def _only_several(kind: Kind, most: int = BLOCKS) -> Kind:
    return replace(kind, words=f"a list, of each {kind.words}", several=most, only=True)


_BY_KIND: dict[Kind, str] = {
    _whole(WIDTH, 1): """
        in_channels latent_channels hidden_size intermediate_size d_model d_kv d_ff num_heads num_channels
        joint_attention_dim caption_projection_dim pooled_projection_dim conv_in_kernel conv_out_kernel
        dim n_heads n_kv_heads cap_feat_dim approximator_hidden_dim approximator_num_channels timestep_guidance_channels
        base_dim z_dim input_channels num_key_value_heads head_dim num_embeds_ada_norm out_hidden_size window_size
        spatial_patch_size temporal_patch_size spatial_merge_size merge_size
        relative_attention_num_buckets relative_attention_max_distance addition_embed_type_num_heads""",
    _perhaps(_or_several(_whole(WIDTH))): """
        attention_head_dim cross_attention_dim num_attention_heads sample_size""",
    _perhaps(_whole(WIDTH)): """
        out_channels norm_num_groups projection_dim encoder_hid_dim addition_time_embed_dim num_class_embeds
        time_embedding_dim time_cond_proj_dim projection_class_embeddings_input_dim downsample_padding freq_shift
        chunk_size_feed_forward num_labels max_length base_image_seq_len max_image_seq_len caption_channels
        siglip_feat_dim""",
    _whole(LAYERS, 1): "num_layers num_hidden_layers depth",
    _whole(LAYERS): "num_single_layers n_layers n_refiner_layers approximator_layers num_res_blocks",
    _perhaps(_whole(LAYERS)): "num_decoder_layers max_window_layers",
    _perhaps(_or_several(_whole(LAYERS))): """
        layers_per_block transformer_layers_per_block reverse_transformer_layers_per_block""",
    _or_several(_whole(LAYERS), LAYERS): "dual_attention_layers",
    _only_several(_whole(WIDTH, 1)): """
        block_out_channels axes_dims axes_lens axes_dims_rope all_patch_size all_f_patch_size dim_mult""",
    _or_several(_whole(WIDTH, 1)): "patch_size",
    _perhaps(_only_several(_whole(WIDTH, 1))): "decoder_block_out_channels",
    _only_several(_TEXT): "down_block_types up_block_types",
    _perhaps(_or_several(_TEXT, LAYERS)): "layer_types",
    _whole(WIDTH // 4, 1): "num_train_timesteps solver_order",
    _whole(IDS, 1): "max_position_embeddings",
    _whole(512, 1): "pos_embed_max_size",
    _whole(4096, 1): "max_text_len num_queries",
    _whole(1000): "steps_offset extra_ids",
    _whole(IDS, 1): "vocab_size",
    _perhaps(_or_several(_whole(IDS, -1))): "bos_token_id eos_token_id pad_token_id decoder_start_token_id",
    _NUMBER: """
        mid_block_scale_factor dropout norm_eps resnet_out_scale_factor scaling_factor initializer_range beta_start
        beta_end dynamic_thresholding_ratio clip_sample_range sample_max_value shift dropout_rate layer_norm_epsilon
        rescale_factor resample rope_theta t_scale mlp_ratio eps batch_norm_eps batch_norm_momentum
        rms_norm_eps""",
    _perhaps(_NUMBER): """
        shift_factor layer_norm_eps attention_dropout initializer_factor base_shift max_shift shift_terminal
        logit_scale_init_value interpolation_scale sliding_window classifier_dropout""",
    _perhaps(_or_several(_NUMBER, WIDTH)): "latents_mean latents_std trained_betas image_mean image_std",
    _or_several(_NUMBER, LAYERS): "attn_scales fullatt_block_indexes",
    _perhaps(_or_several(_FLAG)): "only_cross_attention mid_block_only_cross_attention temperal_downsample",
    _perhaps(_FLAG): """
        center_input_sample flip_sin_to_cos dual_cross_attention use_linear_projection upcast_attention
        resnet_skip_time_act class_embeddings_concat force_upcast use_quant_conv use_post_quant_conv
        mid_block_add_attention clip_sample set_alpha_to_one thresholding rescale_betas_zero_snr skip_prk_steps
        use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_dynamic_shifting invert_sigmas stochastic_sampling
        interpolate is_decoder is_encoder_decoder use_cache tie_word_embeddings output_hidden_states return_dict
        is_gated_act scale_decoder_outputs use_attention_mask output_attentions requires_safety_checker
        force_zeros_for_empty_prompt add_prefix_space do_lower_case clean_up_tokenization_spaces
        split_special_tokens guidance_embeds attention_bias use_sliding_window qk_norm is_distilled zero_cond_t
        use_additional_t_cond use_layer3d_rope use_additional_conditions norm_elementwise_affine
        do_resize do_center_crop do_rescale do_normalize do_convert_rgb""",
    _TEXT: """
        act_fn resnet_time_scale_shift time_embedding_type attention_type beta_schedule prediction_type
        timestep_spacing interpolation_type time_shift_type hidden_act feed_forward_proj dense_act_fn model_type
        tokenizer_class errors backend _class_name feature_extractor_type image_processor_type""",
    _perhaps(_TEXT): """
        mid_block_type encoder_hid_dim_type class_embed_type addition_embed_type time_embedding_act_fn activation_fn
        norm_type algorithm_type timestep_post_act cross_attention_norm dtype torch_dtype transformers_version
        _diffusers_version problem_type final_sigmas_type""",
    _perhaps(_or_several(_TEXT)): "architectures",
    _TOKEN: """
        bos_token eos_token pad_token unk_token sep_token cls_token mask_token additional_special_tokens""",
    _SIZE: "crop_size size",
    _perhaps(_or_several(_whole(SIDE, 1))): "image_size",
    _LENGTH: "model_max_length",
    _perhaps(_whole(SIDE**2, 1)): "min_pixels max_pixels",
    Kind("left out", lambda _: False, nothing=True): "transformers_weights",  # a file that libraries would load instead
    _OBJECT: """
        text_config vision_config id2label label2id task_specific_params rope_parameters rope_scaling""",
    _ADDED: "added_tokens_decoder extra_special_tokens",
}
_PLACES = Kind(
    f"an object of at most {PLACES} texts",
    lambda value: isinstance(value, dict) and len(value) <= PLACES and all(map(_TEXT.fits, value.values())),
)
_KINDS = {name: kind for kind, names in _BY_KIND.items() for name in names.split()}
_OWN = dict.fromkeys(("strength", "invert-from", "last-level", "guidance", "paste-above"), _NUMBER)
_OWN |= dict.fromkeys(("limit", "evidence", "evidence-of-looks", "unexplained"), _LIMIT)
_OWN |= {"words": _only_several(_TEXT, IDS), "places": _PLACES}
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
_PART = Kind(
    "a library of models and a class of it",
    lambda value: value == [None, None] or (_is_pair(value) and value[0] in _LIBRARIES and isinstance(value[1], str)),
)


def check(name: str, folder: Path, family: Family, held: Callable[[str], tuple[int, int]]) -> None:
    """Raises ModelError for a model of this name with settings that no model can have.

    `held` returns the number of tensors and of bytes in the weights of a component, because no layer is without
    tensors.
    """
    _check_sizes(name, folder, (".json",))
    for path in folder.glob("*.json"):
        _check_top(name, path, family)
    for part in family.all_parts:
        check_folder(name, folder / part)
    said = {part: read(name, folder / part / "config.json") for part in family.networks}
    for part in family.networks:
        layers, positions = _layers(said[part]), _positions(said[part]) if part == "transformer" else 0
        tensors, size = held(part)
        if layers * LEAST_TENSORS > tensors:
            raise _damaged(
                name, folder / part / "config.json", f"it has {layers} layers, and the weights {tensors} tensors"
            )
        if positions > size + SPARE:
            difference = f"pos_embed_max_size takes {positions} numbers, and the weights {size} bytes"
            raise _damaged(name, folder / part / "config.json", difference)
    if family.native_side:
        return
    cells, factor = said[family.denoiser].get("sample_size"), family.factor(said["vae"])
    if type(cells) is not int or not 1 <= cells * factor <= SIDE:
        most = SIDE // factor
        raise _damaged(name, folder, f"sample_size is {cells!r:.80}, and must be a whole number from 1 to {most}")


def check_folder(name: str, folder: Path) -> None:
    """Raises ModelError for invalid settings in a folder's JSON files, an adapter, and files that are too large."""
    _check_sizes(name, folder, SMALL)
    if paths.is_there(adapter := folder / "adapter_config.json"):
        raise ModelError(f"The model {name} has an adapter in {adapter}; remove it, and add the adapter with --lora.")
    for path in sorted(folder.glob("*.json")):
        if path.name in ("vocab.json", "added_tokens.json", "tokenizer.json"):
            _check_ids(name, path, read(name, path))
        elif ".index." not in path.name:  # an index names weights files
            _check_settings(name, path, said := read(name, path), _KINDS)
            _check_quantisation(name, path, said.get(QUANTISATION))


def _check_quantisation(name: str, path: Path, said: Any) -> None:
    """Raises ModelError for quantised weights that diffedit cannot read; of their settings it reads nothing else."""
    if said is None:
        return
    method = said.get("quant_method") if isinstance(said, dict) else None
    if method not in QUANTISERS:
        raise ModelError(
            f"The model {name} is quantised by {str(method)[:80]} ({path}), which diffedit cannot read; use the full "
            f"model, with --quantize, or one quantised by {' or '.join(QUANTISERS)}."
        )


def _check_sizes(name: str, folder: Path, endings: tuple[str, ...]) -> None:
    """Raises ModelError if files with these suffixes are not regular files, or are too large together."""
    total = 0
    for path in (path for path in sorted(folder.glob("*")) if path.suffix in endings):
        if not paths.is_file(path):
            raise ModelError(f"The model {name} is damaged: {path} is not a file; get it again.")
        if path.suffix == ".model" and path.stat().st_size > MOST_PIECES:
            raise ModelError(f"The model {name} is damaged: {path} has more than {MOST_PIECES} bytes; get it again.")
        if (total := total + path.stat().st_size) > weights.MOST_SETTINGS:
            raise ModelError(
                f"The model {name} is damaged: its settings and vocabularies up to {path} have more than "
                f"{weights.MOST_SETTINGS} bytes; get it again."
            )


def read(name: str, path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises ModelError if there is none."""
    try:
        found = weights.read_json(path)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"The model {name} has no readable {path}; get it again.")
    return found


def _check_top(name: str, path: Path, family: Family) -> None:
    said = read(name, path)
    kinds: Mapping[str, Kind] = _KINDS | _OWN
    if path.name == "model_index.json":
        kinds = _KINDS | {
            part: _PART for part in said if part in (*family.all_parts, "image_encoder") or _is_pair(said[part])
        }
    _check_settings(name, path, said, kinds)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _check_settings(name: str, path: Path, said: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    for key, value in said.items():
        kind = kinds.get(key)
        if kind is not None and not (kind.fits(value) if kind is _PART else kind.holds(value)):
            raise _damaged(name, path, f"{key} is {repr(value)[:80]}, and must be {kind.words}")
        if isinstance(value, dict) and key in (
            "text_config",
            "vision_config",
            "text_config_dict",
            "vision_config_dict",
            "prompt_encoder_config",
            "mask_decoder_config",
        ):
            _check_settings(name, path, value, kinds)


def _check_ids(name: str, path: Path, said: Any) -> None:
    """Raises ModelError for token ids that are larger than any vocabulary, and for too many added tokens."""
    added = said if path.name == "added_tokens.json" else said.get("added_tokens")
    if path.name != "vocab.json" and not _ADDED.holds(added):
        raise _damaged(name, path, f"the added tokens must be {_ADDED.words}")
    waiting = [said]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and abs(value) > IDS:
            raise _damaged(name, path, f"it holds {repr(value)[:80]}, and must hold no number above {IDS}")


def _layers(said: Mapping[str, Any]) -> int:
    """Returns about how many layers a network would have; for UNets and VAEs those on the way down."""
    blocks = len(said.get("block_out_channels", ()))
    depth = _spread(said.get("layers_per_block"), blocks)
    inner_depth = _spread(said.get("transformer_layers_per_block"), blocks)
    own = sum(said.get(key) or 0 for key in ("num_layers", "num_single_layers", "n_layers", "approximator_layers"))
    inner = said.get("text_config") or {}
    text = max(one.get("num_hidden_layers") or 0 for one in (said, inner))
    return int(sum(a * max(1, b) for a, b in zip(depth, inner_depth, strict=True)) + max(own, text))


def _positions(said: Mapping[str, Any]) -> int:
    """Returns how many values of position embeddings a transformer computes when it is built."""
    usual = {"pos_embed_max_size": 96, "num_attention_heads": 18, "attention_head_dim": 64}  # diffusers' defaults
    if not usual.keys() & said.keys():
        return 0
    side, heads, width = (largest(said.get(key, usual[key])) for key in usual)
    patches = largest(said.get("sample_size", 1)) // largest(said.get("patch_size", 1))  # where no size is stated
    return max(side, patches) ** 2 * heads * width


def _spread(value: Any, blocks: int) -> list[int]:
    """Returns the number of each block, from one number for all or a list."""
    each = value if isinstance(value, list) else [value] * blocks
    return [largest(one) for one in [*each, *[1] * blocks][:blocks]]


def largest(value: Any) -> int:
    """Returns a number, or the largest in a list; 1 if it is missing."""
    return max(map(largest, value), default=1) if isinstance(value, list) else int(value or 1)


def _damaged(name: str, path: Path, difference: str) -> ModelError:
    return ModelError(f"The model {name} is damaged: in {path} {difference}; get it again.")
