"""What an image file says of how it was made: written, read from strangers, catalogued, shown. Built in chapter 19."""

from sdhelpers.metadata.files import (
    disagreements,
    exif_with,
    read_image,
    read_stream,
    save_image,
)
from sdhelpers.metadata.parameters import to_parameters, to_settings, understand
from sdhelpers.metadata.png import MetadataError
