"""Protocols that judge class scores, boxes, maps and masks: one per file, numpy, OpenCV and numba, never torch.

Every metric is an accumulator: ``update`` once per image, ``compute`` returns the numbers under their public names.
Rates are in percent, F-measure and IoU in 0..1, nothing is rounded. A number that the data cannot give is left out.
"""
