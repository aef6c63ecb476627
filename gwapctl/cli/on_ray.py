"""``--on ray`` of ``localize``, ``boxes`` and ``evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from gwapctl.cli import console
from gwapctl.cli.inputs import find_images
from gwapctl.cli.options import option
from gwapctl.errors import UsageError, counted
from gwapctl.progress import Progress

if TYPE_CHECKING:
    from gwapctl.cluster.sources import Source
    from gwapctl.cluster.work import OfImages, Task, Work
    from gwapctl.datasets.base import ClassName

SOME_FAILED = 3
RAY = "On Ray"

On = Annotated[
    Literal["local", "ray"],
    option("--on", "ray: on Ray's workers, many machines or this one; gwapctl merge OUT joins the shards.", RAY),
]
Actors = Annotated[
    int | None, option("--actors", "Workers, each with the model.", RAY, "one per GPU, else per core", min=1)
]
ShardSize = Annotated[int, option("--shard-size", "Images per shard, which is done again where it fails.", RAY, min=1)]
Rows = Annotated[Literal["jsonl", "parquet"], option("--rows", "parquet: a table in every shard as well.", RAY)]
IMAGES = 1024  # of a shard


class Asked(NamedTuple):
    """What is asked about the way of the work."""

    out: Path | None
    resume: bool = False
    actors: int | None = None
    shard_size: int = IMAGES
    rows: Literal["jsonl", "parquet"] = "jsonl"
    dry_run: bool = False

    @property
    def address(self) -> str:
        """Where shards are written: an absolute folder, or an address."""
        text = str(self.out)
        if ":/" in text:  # a path has lost one of its slashes
            return text if "://" in text else text.replace(":/", "://", 1)
        return str(Path(text).absolute())


def check(asked: Asked, on: str, others: Mapping[str, Any], *, resumes: bool = False) -> bool:
    """Tell whether the work is Ray's; refuse, by name, options that are for Ray alone, or do not go with it.

    ``others`` are those that do not, with what was given. ``resumes``: the verb can without Ray, too.
    """
    if on != "ray":
        alone = {"--actors": asked.actors, "--shard-size": asked.shard_size != IMAGES, "--rows": asked.rows != "jsonl"}
        alone |= {} if resumes else {"--resume": asked.resume}
        given = [name for name, value in alone.items() if value]
        if given:
            raise UsageError(f"{given[0]} goes with --on ray. Add that, or leave {given[0]} out.")
        return False
    given = [name for name, value in others.items() if value]
    if given:
        raise UsageError(f"{given[0]} does not go with --on ray. Leave it out.")
    if asked.out is None:
        raise UsageError("--on ray writes shards into a folder that all machines see, or to an address. Give --out.")
    if asked.out.suffix and not resumes:  # a file, as without Ray
        raise UsageError("--on ray writes a folder, which gwapctl merge makes the file of. Name one with --out r.")
    return True


def images_anywhere(
    inputs: Sequence[str], labels: str | None, *, recursive: bool = True
) -> tuple[list[Source], Mapping[str, Sequence[ClassName]] | None]:
    """Return images in folders, lists, tars, tables and at addresses, and the classes of each where labels say them."""
    from gwapctl.cluster.sources import Source, find_sources

    if labels is None:
        return find_sources(inputs, recursive=recursive), None
    images, known = find_images(inputs, labels)
    return [Source(item.id, str(item.path)) for item in images], known


def of_images(verb: str, asked: Asked, work: OfImages, sources: Sequence[Source], workers: int | None) -> None:
    """Do the work of a network on images; ``workers``: threads of an actor, None: those of torch."""
    import torch

    from gwapctl.cluster.work import tasks_for
    from gwapctl.predict.threads import chunk_size

    predictor = work.predictor()
    if predictor.warning:
        console.warn(predictor.warning)
    threads = workers or torch.get_num_threads()
    chunk = chunk_size(len(sources), predictor.batch_size, threads)
    console.note(f"{counted(len(sources), 'image')}, {predictor.summary(work.name)}")
    tasks = tasks_for([source.id for source in sources], asked.shard_size, sources=sources, chunk=chunk)
    start(verb, asked, work, tasks, {**work.shared(predictor), "chunk": chunk}, threads)


def start(
    verb: str, asked: Asked, work: Work, tasks: Sequence[Task], settings: Mapping[str, Any], threads: int = 1
) -> None:
    """Do all shards that are not there yet; ``settings`` are those that shards which are there must have, too."""
    from gwapctl.cluster.on_ray import Job, check_resumed, run_on_ray

    job, (total, _) = Job(work, asked.address, asked.rows, threads), tasks[0].whole
    check_resumed(job, settings, tasks[0])
    if asked.dry_run:
        console.note(f"would write {counted(len(tasks), 'shard')} of {counted(total, 'image')} to {asked.out}")
        return
    done = failed = 0
    again = "the same command with --resume"
    with console.resumable(asked.out, again), console.progress(verb) as progress:
        for row in run_on_ray(job, tasks, actors=asked.actors, resume=asked.resume):
            done, failed = done + row["images"], failed + row["failed"]
            progress(Progress(done, total, "images", f"{failed} failed" if failed else ""))
    earlier = f" ({total - done} were done before)" if done < total else ""
    shards = f"{counted(done - failed, 'image')} in {counted(len(tasks), 'shard')} in {asked.out}{earlier}"
    console.note(f"{shards}. next: gwapctl merge {asked.out} --out ALL")
    if failed:
        console.warn(f"{failed} of {counted(done, 'image')} failed.")
        raise typer.Exit(SOME_FAILED)
