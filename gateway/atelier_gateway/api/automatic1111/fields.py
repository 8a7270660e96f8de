"""The one table of the fields of txt2img, img2img and the extras: what this dialect does with each of them.

`used`: it decides on the picture, as in AUTOMATIC1111's web UI or as the table says. `ignored`: it does not,
and the response's header names it where its value would have mattered there. `refused`: any other value than
those given is an error that names the field, because the picture would be another one. docs/automatic1111.md
and the schemas of the OpenAPI document are generated from this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from atelier_gateway.api.automatic1111.kinds import (
    Anything,
    Flag,
    Integer,
    Kind,
    ListOf,
    Number,
    Object,
    Only,
    Picture,
    Text,
)
from atelier_runtime import defaults

Treatment = Literal["used", "ignored", "refused"]

_ANYTHING = Anything()
_NAME = Text(200)
_SIDE = Integer(*defaults.SIDE_PX_RANGE, defaults.SIDE_PX_MULTIPLE)
_SIDE_OR_NONE = Integer(0, defaults.HIRES_SIDE_PX_RANGE[1])
_STEPS = Integer(*defaults.NUM_INFERENCE_STEPS_RANGE)
_COUNT = Integer(*defaults.NUM_IMAGES_RANGE)
_SHARE = Number(0, 1)
MOST_PICTURES = defaults.NUM_IMAGES_RANGE[1]
"""In one request, drawn or restored."""


@dataclass(frozen=True)
class Field:
    """A field of a request.

    `default`: what the echo in `parameters` shows where the client left it out, which is what is in effect;
    None: that is up to the model set. `harmless`: values of an ignored field that change nothing there
    either. `name_in_spec`: how the services name what it sets.
    """

    name: str
    kind: Kind
    treatment: Treatment
    meaning: str
    default: Any = None
    harmless: tuple[str | float | bool, ...] = ()
    name_in_spec: str = ""
    required: bool = False


def _used(
    name: str, kind: Kind, meaning: str, default: Any = None, spec: str = "", *, required: bool = False
) -> Field:
    return Field(name, kind, "used", meaning, default, name_in_spec=spec, required=required)


def _ignored(
    name: str,
    meaning: str,
    default: Any = None,
    harmless: Iterable[str | float | bool] = (),
    *,
    told: bool = True,
) -> Field:
    """`told`: False for what never changes the picture, and needs no mention."""
    return Field(name, _ANYTHING if told else _UNTOLD, "ignored", meaning, default, tuple(harmless))


def _refused(
    name: str, why: str, default: Any = None, *values: str | float | bool, of_list: bool = False
) -> Field:
    return Field(name, Only(values, why, of_list), "refused", why, default)


class _Untold(Anything):
    """Of a field that never changes the picture."""


_UNTOLD = _Untold()


def is_untold(field: Field) -> bool:
    """Return whether a field is ignored without a word, because it never changes the picture."""
    return field.kind is _UNTOLD


def is_no_picture(field: Field) -> bool:
    """Return whether "" in a field stands for no picture, as mask has it."""
    return isinstance(field.kind, Picture) and not field.required


_SHARED = (
    _used(
        "prompt",
        Text(defaults.PROMPT_CHARS[1]),
        "In AUTOMATIC1111's syntax: (weights:1.2), [less], BREAK, <lora:name:0.8>; [from:to:when], [a|b] "
        "and AND are refused.",
        "",
    ),
    _used(
        "negative_prompt",
        Text(defaults.NEGATIVE_PROMPT_CHARS[1]),
        "Likewise. Left out: the model set's own.",
        "",
    ),
    _used(
        "width",
        _SIDE,
        f"In px. Left out: {defaults.SIDE_PX} for txt2img, not 512, at which SDXL draws badly; for img2img "
        "the picture's own size.",
        None,
    ),
    _used("height", _SIDE, "Likewise.", None),
    _used("steps", _STEPS, "Left out: the model set's own, not 50.", None, "num_inference_steps"),
    _used(
        "cfg_scale",
        Number(*defaults.GUIDANCE_SCALE_RANGE),
        "Left out: the model set's own, not 7.",
        None,
        "guidance_scale",
    ),
    _used(
        "sampler_name",
        _NAME,
        "AUTOMATIC1111's names and ours; one that is unknown is an error 400, as in 1.10. Left out: the "
        "model set's own.",
        None,
        "sampler",
    ),
    _used("sampler_index", _NAME, "The older field: a name, read where sampler_name is left out.", None),
    _used(
        "scheduler",
        _NAME,
        "AUTOMATIC1111's labels and names. Automatic, or left out: as the sampler's name says, otherwise "
        "the model set's own.",
        None,
        "schedule",
    ),
    _used(
        "seed",
        Integer(-1, defaults.SEED_RANGE[1]),
        "-1: random. Further pictures have the seeds after it.",
        -1,
    ),
    _used("batch_size", _COUNT, f"Together with n_iter at most {MOST_PICTURES} pictures.", 1, "num_images"),
    _used("n_iter", _COUNT, "Likewise.", 1),
    _used(
        "restore_faces",
        Flag(),
        "Left out: the option face_restoration. With the loaded restorer, whatever face_restoration_model "
        "names; if it fails, the request fails. Not with a mask.",
        None,
    ),
    _used(
        "refiner_checkpoint",
        _NAME,
        'Left out: the loaded refiner, if there is one, which the header names. "" or "None": without it. A '
        "name must be that of the loaded model set or its refiner.",
        None,
    ),
    _used(
        "refiner_switch_at",
        _SHARE,
        "Only with the name of a refiner: it redraws 1 - refiner_switch_at of the steps, from fresh noise; "
        "there it takes over the noise that is left. 1: without it, also where no refiner is named.",
        None,
        "refiner_strength",
    ),
    _used(
        "override_settings",
        Object(),
        "The options of the next table, for this request; others are named in the header.",
        {},
    ),
    _used("send_images", Flag(), "false: images is empty.", True),
    _ignored("script_args", "Without script_name they have no effect.", [], told=False),
    _used(
        "alwayson_scripts",
        Object(of_objects=True),
        "Refused by name where one has arguments that do not switch it off: there are no scripts.",
        {},
    ),
    _ignored("subseed", "Without subseed_strength it has no effect.", -1, told=False),
    _refused("subseed_strength", "variation seeds are not supported", 0, 0),
    _refused("seed_resize_from_h", "seeds of another size are not supported", -1, -1, 0),
    _refused("seed_resize_from_w", "seeds of another size are not supported", -1, -1, 0),
    _refused("styles", "there are no prompt styles", None, "", "None", of_list=True),
    _refused("tiling", "pictures that tile are not supported", None, False),
    _refused("script_name", "there are no scripts", None, "", "None"),
    _refused("infotext", "parameters as a text are not supported", None, ""),
    _refused("disable_extra_networks", "LoRAs that the prompt names are always applied", False, False),
    _refused("s_churn", "stochastic samplers' churn cannot be set", None, 0),
    _refused("s_min_uncond", "skipping the negative prompt is not supported", None, 0),
    _refused("s_noise", "the noise of stochastic samplers cannot be set", None, 1),
    _ignored("s_tmin", "Without s_churn it has no effect.", None, told=False),
    _ignored("s_tmax", "Without s_churn it has no effect.", None, told=False),
    _ignored("eta", "Samplers have their usual one: 1 where ancestral, otherwise 0.", None, (1,)),
    _ignored("save_images", "Nothing is kept on the server.", False, (False,)),
    _ignored("do_not_save_samples", "Nothing is kept on the server.", False, told=False),
    _ignored("do_not_save_grid", "There is no grid.", False, told=False),
    _ignored(
        "override_settings_restore_afterwards",
        "Options of one request never change those of the next.",
        True,
        told=False,
    ),
    _ignored("force_task_id", "Requests are told apart by their caller.", None, told=False),
    _ignored("comments", "Texts for its own page.", None, told=False),
)

_TXT2IMG = (
    _used("enable_hr", Flag(), "Upscale what was drawn, and draw it again.", False),
    _used(
        "denoising_strength",
        _SHARE,
        "Of the second pass, with enable_hr. Left out: 0.75. Less than one step, and 0: one step, named in "
        "the header.",
        None,
    ),
    _used("hr_scale", Number(1, 8), "Sides are rounded down to multiples of 8.", 2.0),
    _used(
        "hr_resize_x",
        _SIDE_OR_NONE,
        "The width after the second pass; 0: by hr_scale, or by hr_resize_y and the shape. Where both make "
        "another shape, it is covered and cropped in the middle, as there; smaller than the first pass it is "
        "refused.",
        0,
    ),
    _used("hr_resize_y", _SIDE_OR_NONE, "The height, likewise.", 0),
    _used("hr_second_pass_steps", Integer(0, defaults.NUM_INFERENCE_STEPS_RANGE[1]), "0: as steps.", 0),
    _used(
        "hr_upscaler",
        _NAME,
        "None and Lanczos: Lanczos. Nearest: Lanczos, named in the header. The loaded network's name, or "
        "left out: that network. Latent and its variants, and other names with ESRGAN in them: the loaded "
        "network, named in the header. Others, such as 4x-UltraSharp, are refused.",
        None,
    ),
    _used("hr_checkpoint_name", _NAME, 'Only the loaded model set, "" or "Use same checkpoint".', None),
    _used(
        "hr_sampler_name",
        _NAME,
        'Only that of the first pass by any of its names, "" or "Use same sampler".',
        None,
    ),
    _used("hr_scheduler", _NAME, 'Only that in effect in the first pass, "" or "Use same scheduler".', None),
    _used("hr_prompt", Text(defaults.PROMPT_CHARS[1]), "Only the prompt, or empty.", ""),
    _used(
        "hr_negative_prompt",
        Text(defaults.NEGATIVE_PROMPT_CHARS[1]),
        "Only the negative prompt, or empty.",
        "",
    ),
    _refused("firstphase_width", "it is enable_hr of before 2023; give hr_resize_x", 0, 0),
    _refused("firstphase_height", "it is enable_hr of before 2023; give hr_resize_y", 0, 0),
    _refused("firstpass_image", "a second pass of a given picture is img2img", None, ""),
)

_IMG2IMG = (
    _used("init_images", ListOf(Picture(), 1, 1), "One picture.", None, "image", required=True),
    _used(
        "denoising_strength",
        _SHARE,
        "Left out: 0.75. 0: the picture as it is. Less than one step otherwise: one step, named in the "
        "header.",
        0.75,
        "strength",
    ),
    _used(
        "mask",
        Picture(),
        "White is drawn anew; transparent parts count as black. As large as the picture: another size is "
        'refused. "": none.',
        None,
    ),
    _used("inpainting_mask_invert", Flag(), "1 or true: black is drawn anew.", 0, "mask_kind"),
    _used("mask_blur", Number(0, 64), "Left out: mask_blur_x, otherwise 4.", None, "mask_blur_px"),
    _used("mask_blur_x", Number(0, 64), "Only the same as mask_blur_y.", 4),
    _used("mask_blur_y", Number(0, 64), "Only the same as mask_blur_x.", 4),
    _used(
        "resize_mode",
        Integer(0, 3),
        "Pictures of another shape cover the size and are cropped: 1, crop and resize. Others, and 0 where "
        "it is left out, are named in the header where that makes a difference.",
        1,
    ),
    _used(
        "inpainting_fill",
        Integer(0, 3),
        "Masked parts begin from what is there: 1, original. Others, and 0 where it is left out, are named "
        "in the header with a mask.",
        1,
    ),
    _used(
        "inpaint_full_res",
        Flag(),
        "The whole picture is drawn at its size: false. true, also where it is left out, is named in the "
        "header with a mask.",
        False,
    ),
    _ignored("inpaint_full_res_padding", "Only with inpaint_full_res.", 0, told=False),
    _ignored(
        "image_cfg_scale",
        "It is for networks that edit by instruction, in AUTOMATIC1111's web UI too.",
        None,
        told=False,
    ),
    _ignored("include_init_images", "parameters never repeats pictures.", False, (False,)),
    _refused("initial_noise_multiplier", "the noise that is added cannot be changed", None, 1),
    _refused("latent_mask", "masks of latents are not supported", None, ""),
    _ignored(
        "mask_round",
        "Gray in a mask blends; there it is rounded where a mask has transparency.",
        True,
        (True,),
    ),
)

_EXTRAS = (
    _used("codeformer_visibility", _SHARE, "Opacity of the restored faces.", 0.0, "visibility"),
    _used("codeformer_weight", _SHARE, "0: best looking, 1: closest to the picture.", 0.0, "fidelity"),
    _used(
        "gfpgan_visibility",
        _SHARE,
        "Likewise, with the loaded restorer whatever its name, which the header says. Not together with "
        "codeformer_visibility: one restorer is loaded.",
        0.0,
    ),
    _used("upscaler_1", _NAME, 'As hr_upscaler. "None", or left out: the picture is not upscaled.', "None"),
    _used("upscaling_resize", Number(1, 8), "1, 2 or 4, where there is an upscaler.", 2.0, "upscale"),
    _used(
        "resize_mode",
        Integer(0, 1),
        "1: to upscaling_resize_w x upscaling_resize_h, which must be 1, 2 or 4 times the picture's size.",
        0,
    ),
    _used("upscaling_resize_w", Integer(1, 65535), "Only with resize_mode 1.", 512),
    _used("upscaling_resize_h", Integer(1, 65535), "Likewise.", 512),
    _used("upscaler_2", _NAME, 'Only "None", unless it is invisible.', "None"),
    _used("extras_upscaler_2_visibility", _SHARE, "0, unless upscaler_2 is None.", 0.0),
    _used(
        "show_extras_results", Flag(), "The picture is always returned; false is named in the header.", True
    ),
    _ignored("upscaling_crop", "Nothing is cropped: other shapes are refused.", True, told=False),
    _ignored(
        "upscale_first",
        "Faces are restored at their own size, and pasted into the upscaled picture.",
        False,
        (False,),
    ),
)

_SINGLE = (_used("image", Picture(), "The picture.", None, required=True),)


def _table(*fields: Field) -> Mapping[str, Field]:
    return {field.name: field for field in fields}


TXT2IMG = _table(*_SHARED, *_TXT2IMG)
IMG2IMG = _table(*_SHARED, *_IMG2IMG)
EXTRA_SINGLE = _table(*_SINGLE, *_EXTRAS)
EXTRA_BATCH = _table(
    _used(
        "imageList",
        ListOf(Object((("data", Picture()), ("name", _NAME)), required=("data",)), 1, MOST_PICTURES),
        "The pictures: objects with data and name.",
        None,
        required=True,
    ),
    *_EXTRAS,
)
PNG_INFO = _table(*_SINGLE)
