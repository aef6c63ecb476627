"""Hide-and-Seek (Singh and Lee, ICCV 2017, arXiv 1704.04232, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gwapctl.train.augmentations import Augmented

GRID = 7  # S: patches of 32 pixels at the papers' 224, as of the released GoogLeNet-HaS-32
HIDDEN = 0.5  # p_hide


def hide_and_seek(images: Tensor, labelled: int, mean: Tensor, generator: np.random.Generator) -> Augmented:
    """Divide each image into a grid of ``GRID`` x ``GRID`` patches and hide each of them with probability ``HIDDEN``.

    Hidden pixels get the ``mean`` colour, so that the first layer sees on average what it sees in whole images (section
    3.2). The grid is the paper's at 224 pixels, at other sizes in proportion: ours. wsolevaluation's code
    (clovaai/wsolevaluation, wsol/method/has.py, ``has_grid_size`` 4, ``has_drop_rate`` 0.5) has patches of 4 pixels.
    A region (fourth channel) stays.
    """
    del labelled
    count, _, height, width = images.shape
    hidden = torch.from_numpy(generator.random((count, GRID, GRID)) < HIDDEN)
    rows, columns = (torch.arange(side) * GRID // side for side in (height, width))
    mask = hidden[:, rows][:, :, columns][:, None]  # (B, 1, H, W)
    fill = mean.round().to(images.dtype).view(1, 3, 1, 1)
    images[:, :3] = torch.where(mask, fill, images[:, :3])
    return Augmented(images)
