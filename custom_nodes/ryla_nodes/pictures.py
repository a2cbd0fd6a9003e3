"""Another file format or fewer channels for a picture, with its look kept: what a viewer shows stays the same.

That is more than its pixels: 16 bits, palettes, transparency, CMYK, the camera's turn (EXIF) and the colour profile.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageOps

from .errors import RylaError

_DEEP = 256  # How many steps of a 16-bit picture one of an 8-bit picture is.
_LONGEST_SIDE = {"JPEG": 65_535, "WEBP": 16_383}
_ANIMATED = ("WEBP", "PNG", "GIF")


def plain(image: Image.Image) -> Image.Image:
    """The picture upright, with 8 bits a channel, as L, LA, RGB or RGBA; a profile that fits it stays in ``info``."""
    upright = ImageOps.exif_transpose(image)
    profile = upright.info.get("icc_profile")
    coloured = _in_srgb(upright, profile) if profile and upright.mode not in ("L", "RGB", "RGBA") else upright
    shallow = _shallow(coloured)
    if coloured is upright and profile and shallow.mode in ("L", "RGB", "RGBA") and upright.mode == shallow.mode:
        shallow.info["icc_profile"] = profile
    else:
        shallow.info.pop("icc_profile", None)
    return shallow


def flat(image: Image.Image) -> Image.Image:
    """``plain`` as L or RGB: what is transparent lies on white, as in a viewer."""
    shown = plain(image)
    if shown.mode in ("L", "RGB"):
        return shown
    profile = shown.info.get("icc_profile")
    grey = shown.mode == "LA"
    laid = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA"))
    opaque = laid.convert("L" if grey else "RGB")
    opaque.info = {"icc_profile": profile} if profile else {}
    return opaque


def rgb(image: Image.Image) -> Image.Image:
    """``flat`` in sRGB, for what knows neither greys nor profiles: thumbnails, face analysis."""
    shown = flat(image)
    profile = shown.info.get("icc_profile")
    return _in_srgb(shown, profile).convert("RGB") if profile else shown.convert("RGB")


def convert(data: bytes, kind: str, quality: int) -> bytes:
    """A picture file as another format: Pillow's name of it, such as ``JPEG``.

    Raises:
        RylaError: ``invalid_output_path`` when that format cannot show it: several frames, too many pixels a side.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                return _animation(image, kind, quality)
            image.load()
            return _still(image, kind, quality)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise RylaError("invalid_output_path", f"The picture cannot be made a {kind}: {error}.") from error


def _still(image: Image.Image, kind: str, quality: int) -> bytes:
    longest = _LONGEST_SIDE.get(kind)
    if longest is not None and max(image.size) > longest:
        told = f"The picture has {image.width} x {image.height} pixels; a {kind} holds {longest} a side at most."
        raise RylaError("invalid_output_path", told, hint="Give another path with -o, such as one that ends in .png.")
    shown = flat(image) if kind == "JPEG" else plain(image)
    profile = shown.info.get("icc_profile")
    if kind == "WEBP" and shown.mode not in ("RGB", "RGBA"):
        # WebP has no greys: a profile of greys would not fit.
        shown = _in_srgb(shown, profile) if profile else shown
        profile = None
        shown = shown.convert("RGBA" if shown.mode == "LA" else "RGB")
    return _written(shown, kind, quality=quality, icc_profile=profile, exif=b"")


def _animation(image: Image.Image, kind: str, quality: int) -> bytes:
    if kind not in _ANIMATED:
        told = f"The picture moves ({getattr(image, 'n_frames', 1)} frames), and a {kind} holds one frame."
        hint = "Give another path with -o, such as one that ends in .webp."
        raise RylaError("invalid_output_path", told, hint=hint)
    return _written(image, kind, quality=quality, save_all=True)


def _written(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _shallow(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        deep = image.convert("I") if image.mode != "I" else image
        return deep.point(lambda value: value * (1 / _DEEP)).convert("L")
    if image.mode == "F":
        raise RylaError("invalid_output_path", "The picture holds floating-point numbers, whose look is not known.")
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image.copy()
    if image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture in sRGB; one whose profile is damaged or of other channels is shown without it, as viewers do."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
        bare = image.convert({"LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode))
        changed = ImageCms.profileToProfile(bare, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    if changed is None:
        return image
    changed.info.pop("icc_profile", None)
    if alpha is not None:
        changed.putalpha(alpha)
    return changed
