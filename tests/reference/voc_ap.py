"""Average precision as the PASCAL VOC development kits write it down: one loop after the other."""

from __future__ import annotations

import math

from reference.contour_loop import inclusive_iou


def curve(outcomes: list[int], positives: int) -> tuple[list[float], list[float]]:
    """Return recall and precision after each ranked outcome: 1 right, -1 wrong, 0 ignored (0/0 is NaN)."""
    recall, precision, right, wrong = [], [], 0, 0
    for outcome in outcomes:
        right += outcome == 1
        wrong += outcome == -1
        recall.append(right / positives)
        precision.append(right / (right + wrong) if right + wrong else math.nan)
    return recall, precision


def ap_11pt(recall: list[float], precision: list[float]) -> float:
    """VOC 2007: ``max`` skips NaN, as MATLAB's does."""
    total = 0.0
    for k in range(11):
        there = [p for r, p in zip(recall, precision, strict=True) if r >= k * 0.1 and not math.isnan(p)]
        total += max(there, default=0.0) / 11
    return total


def ap_area(recall: list[float], precision: list[float]) -> float:
    """VOC 2010 and later (VOCap.m)."""
    mrec = [0.0, *recall, 1.0]
    mpre = [0.0, *(0.0 if math.isnan(p) else p for p in precision), 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1])


def ranked(scores: list[float]) -> list[int]:
    """Return indices by falling score, equal ones in order."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def classification(scores: list[float], labels: list[int]) -> tuple[float, float]:
    """Return both average precisions of one class; labels are 1, -1 or 0 (difficult only)."""
    recall, precision = curve([labels[index] for index in ranked(scores)], labels.count(1))
    return ap_11pt(recall, precision), ap_area(recall, precision)


def detection(
    detections: list[tuple[int, float, list[int]]], objects: list[tuple[int, list[int], bool]]
) -> tuple[float, float]:
    """Return both average precisions of one class.

    ``detections`` are (image, score, inclusive corners), ``objects`` (image, inclusive corners, difficult).
    """
    found = [False] * len(objects)
    outcomes = []
    for index in ranked([score for _, score, _ in detections]):
        image, _, box = detections[index]
        best, which = -math.inf, -1
        for number, (there, other, _) in enumerate(objects):
            if there == image and inclusive_iou(box, other) > best:
                best, which = inclusive_iou(box, other), number
        if best < 0.5:
            outcomes.append(-1)
        elif objects[which][2]:
            outcomes.append(0)
        elif found[which]:
            outcomes.append(-1)
        else:
            found[which] = True
            outcomes.append(1)
    recall, precision = curve(outcomes, sum(not difficult for _, _, difficult in objects))
    return ap_11pt(recall, precision), ap_area(recall, precision)
