"""What a picture says of itself: how it was made, and that a network made it.

`mark` adds that to a PNG, JPEG or WebP file without touching its pixels, `read_marks` finds it again, and
what other programs write. A recipe is a JSON object; it is in XMP in all three formats. A drawing also has
the text that AUTOMATIC1111's web UI writes and reads, see `infotext`.
"""

from atelier_runtime.recipes.marks import (
    COMPOSITE,
    DRAWN,
    FoundMarks,
    Marks,
)
from atelier_runtime.recipes.reading import describe_marks, read_marks
from atelier_runtime.recipes.splicing import mark

__all__ = ["COMPOSITE", "DRAWN", "FoundMarks", "Marks", "describe_marks", "mark", "read_marks"]
