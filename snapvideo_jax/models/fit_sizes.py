"""Checks of a FIT's sizes."""


def check_sizes(model) -> None:
    """Checks that the sizes of a FIT divide, for clips of all sizes.

    Raises:
      ValueError: names the field and a cure.
    """
    if model.frames % model.patch[0]:
        raise ValueError(
            f"model.frames={model.frames} is not a multiple of "
            f"model.patch[0]={model.patch[0]}."
        )
    rows = ("height + pad_height", model.padded_height, model.patch[1], model.group[0])
    columns = ("width", model.width, model.patch[2], model.group[1])
    for name, size, patch, group in (rows, columns):
        if size % patch:
            raise ValueError(
                f"model.{name}={size} px is not a multiple of the {patch} px of "
                f"a patch; change it to {size // patch * patch} or "
                f"{-(-size // patch) * patch}."
            )
        if (size // patch) % group:
            cells = size // patch
            fits = [n for n in range(1, cells + 1) if cells % n == 0]
            raise ValueError(
                f"model.group={model.group}: {group} does not divide the {cells} "
                f"patches of model.{name}={size} px; use one of {fits}."
            )
    if model.in_channels not in (model.out_channels, 2 * model.out_channels):
        raise ValueError(
            f"model.in_channels={model.in_channels} is neither "
            f"model.out_channels={model.out_channels} nor, for an upsampler, twice "
            "that."
        )
    if model.latents % model.groups:
        raise ValueError(
            f"model.latents={model.latents} cannot be divided over {model.groups} "
            f"groups; use a multiple of {model.groups}."
        )
    if model.group_chunks < 1 or model.groups % model.group_chunks:
        fits = [n for n in range(1, model.groups + 1) if model.groups % n == 0]
        raise ValueError(
            f"model.group_chunks={model.group_chunks} does not divide the "
            f"{model.groups} groups; use one of {fits}."
        )
    _check_heads(model)
    _check_further(model)


def _check_heads(model) -> None:
    """Checks that widths divide into heads."""
    for name in ("patch", "latent"):
        size = getattr(model, f"{name}_width")
        per_head = getattr(model, f"{name}_head_width")
        if size % per_head:
            raise ValueError(
                f"model.{name}_width={size} is not a multiple of "
                f"model.{name}_head_width={per_head}."
            )
    heads = model.patch_width // model.patch_head_width
    for name in ("patch_width", "context_width"):
        inner = min(getattr(model, name), model.latent_width)
        if inner % heads:
            raise ValueError(
                f"model.{name}={getattr(model, name)} and model.latent_width="
                f"{model.latent_width}: the smaller cannot be divided over the "
                f"{heads} heads of patches; use multiples of {heads}."
            )


def _check_further(model) -> None:
    """Checks the sizes of clips in ``data.buckets``."""
    for frames, height, width in model.further_sizes:
        if (height, width) == (model.height, model.width) and frames > model.frames:
            raise ValueError(
                f"data.buckets has {frames} frames of {height}x{width}, "
                f"data.frames={model.frames} of the same size; put the longer first: "
                f"data.frames={frames}, and {(model.frames, height, width)} into "
                "data.buckets."
            )
        try:
            model.at(frames, height, width).validate()
        except ValueError as error:
            raise ValueError(
                f"data.buckets has {(frames, height, width)}: {error}"
            ) from error
