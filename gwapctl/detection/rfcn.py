"""R-FCN (Dai et al., arXiv 1605.06409) with the weak branch of GWAP (Qiu, arXiv 1809.08264, section III-D)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gwapctl.detection.base import BoxTarget, DetectorInfo, Detections


class Detector(nn.Module):
    """Trunk, shared features, region proposals, position-sensitive maps, and the weak branch where there is one.

    Images go in as RGB in 0..255 (uint8 or float), padded with anything at the right and the bottom to one size; the
    detector normalises them and pads with the mean colour.
    """

    info: DetectorInfo

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[BoxTarget | None] | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a training batch; ``total_loss`` adds them up.

        Args:
            images: (B, 3, H, W) RGB in 0..255.
            sizes: (height, width) of each image without its padding, in input pixels.
            targets: the objects of each image; None for an image whose boxes are not known.
            labels: (B, C) 1 where a class is present, 0 where it is absent, -1 where it is neither (difficult only).

        Returns:
            Scalars: ``rpn_objectness``, ``rpn_box``, ``roi_class``, ``roi_box`` of the images with boxes,
            ``weak_image`` of all, ``weak_region`` of the images with boxes. One that has no image is absent.

        """
        raise NotImplementedError

    def detect(
        self, images: Tensor, sizes: Sequence[tuple[int, int]], score_threshold: float = 0.0
    ) -> list[Detections]:
        """Return what is found in each image, in eval mode: after NMS at IoU 0.3, at most 400 boxes.

        Args:
            images: (B, 3, H, W) RGB in 0..255.
            sizes: (height, width) of each image without its padding, in input pixels.
            score_threshold: leave out what scores lower; 0 as published.

        """
        raise NotImplementedError

    def weight_maps(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor | None:
        """Return the class-specific weight maps alpha_c (arXiv 1809.08264, eq. 8), (B, C, h, w).

        They sum to 1 over an image's own positions and are 0 on its padding. None where nothing is weighted: ``weak``
        is none or gap.
        """
        raise NotImplementedError
