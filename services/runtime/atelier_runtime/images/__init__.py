"""Decodes images within a size limit and encodes them once, with the metadata of a photo preserved.

Every sample of an 8- or 16-bit PNG and of a lossless WebP is kept, gray as gray, alpha with the colors under
it; so are the ICC profile, EXIF, XMP, IPTC, comments and texts, and the resolution, each where the format can
store it. Not kept: palettes (their colors are), thumbnails, which would show the old image, and what a file
contains besides its image, such as a gain map or a video.
"""

from atelier_runtime.images.codec import (
    EncodedImage,
    InputImage,
    OutputFormat,
    decode_input,
    encode_mask,
    encode_output,
)
from atelier_runtime.images.header import displayed_size, sniffed_format, stored_size
from atelier_runtime.images.picture import (
    FORMATS,
    Format,
    Picture,
    PixelArray,
    RgbArray,
    from_raw,
    message_limit_bytes,
    to_depth,
    to_eight_bit,
)
from atelier_runtime.images.reading import decode
from atelier_runtime.images.writing import encode, encode_gray_png, is_lossless, losses

__all__ = [
    "FORMATS",
    "EncodedImage",
    "Format",
    "InputImage",
    "OutputFormat",
    "Picture",
    "PixelArray",
    "RgbArray",
    "decode",
    "decode_input",
    "displayed_size",
    "encode",
    "encode_gray_png",
    "encode_mask",
    "encode_output",
    "from_raw",
    "is_lossless",
    "losses",
    "message_limit_bytes",
    "sniffed_format",
    "stored_size",
    "to_depth",
    "to_eight_bit",
]
