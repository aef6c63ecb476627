"""``gwapctl localize --on ray``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import typer

from gwapctl.cli import console
from gwapctl.errors import UsageError, counted
from gwapctl.progress import Progress

SOME_FAILED = 3


class Asked(NamedTuple):
    """What is asked about the inputs and the way of the work."""

    inputs: list[str]
    recursive: bool
    limit: int | None
    resume: bool
    actors: int | None
    shard_size: int
    rows: Literal["jsonl", "parquet"]
    workers: int | None


def localize(
    asked: Asked, model: str, out: Path | None, save: tuple[str, ...], *, device: str, precision: str, **options: Any
) -> None:
    """Localize on Ray; ``options`` are those of ``predictor``."""
    import torch

    from gwapctl.cluster.on_ray import Job, check_resumed, localize_on_ray
    from gwapctl.cluster.sources import find_sources
    from gwapctl.predict.classifier import load_model
    from gwapctl.predict.threads import chunk_size

    if out is None:
        raise UsageError("--on ray writes shards into a folder that all machines see, or to an address. Give --out.")
    sources = find_sources(asked.inputs, recursive=asked.recursive)[: asked.limit]
    loaded = load_model(model, device=device, precision=precision)  # type: ignore[arg-type]
    predictor = loaded.predictor(**options)
    if predictor.warning:
        console.warn(predictor.warning)
    workers = asked.workers or torch.get_num_threads()
    chunk = chunk_size(len(sources), predictor.batch_size, workers)
    address = str(out).replace(":/", "://", 1) if ":/" in str(out) and "://" not in str(out) else str(out.absolute())
    place = str(Path(model).absolute()) if Path(model).exists() else model
    shards = max(1, -(-len(sources) // asked.shard_size))
    job = Job(place, model, address, shards, device, precision, options, save, asked.rows, workers)
    check_resumed(job, {**predictor.settings(model), "chunk": chunk, "save": list(save)}, sources)
    console.note(f"{counted(len(sources), 'image')} in {counted(shards, 'shard')}, {predictor.summary(model)}")
    done = failed = 0
    with console.progress("localize") as progress:
        for row in localize_on_ray(job, sources, chunk, actors=asked.actors, resume=asked.resume):
            done, failed = done + row["images"], failed + row["failed"]
            progress(Progress(done, len(sources), "images", f"{failed} failed" if failed else ""))
    earlier = f" ({len(sources) - done} were done before)" if done < len(sources) else ""
    console.note(f"{counted(done - failed, 'image')} in {out}{earlier}. next: gwapctl merge {out} --out ALL")
    if failed:
        console.warn(f"{failed} of {counted(done, 'image')} failed.")
        raise typer.Exit(SOME_FAILED)
