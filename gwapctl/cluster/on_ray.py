"""Shards of any work on Ray Data: every actor loads what the work needs, every task is one shard in its own folder.

A shard appears whole: it is made in a temporary folder and renamed, or at an address uploaded with ``shard.json`` last.
So a task that Ray repeats because a worker died writes what it would have written, every image is in exactly one shard,
and a driver that is started again leaves out the shards that are there. ``gwapctl merge OUT`` makes the bytes of one
process of them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gwapctl.cluster.sources import file_systems, needed
from gwapctl.cluster.work import Task, Work
from gwapctl.errors import MissingDependencyError, UsageError, option
from gwapctl.predict.predictions import PREDICTIONS
from gwapctl.predict.shards import SHARD, Shard, read_record

TABLE = "predictions.parquet"
Rows = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class Job:
    """What every actor is told.

    Attributes:
        work: what is done with a shard.
        out: a folder that all machines see, or an address of fsspec.
        rows: whether every shard has its predictions as a Parquet table as well.
        workers: threads of an actor; the same as in one process, for batches are cut by it.
        here: the folder that relative paths count from, where a machine has it.

    """

    work: Work
    out: str
    rows: Rows = "jsonl"
    workers: int = 1
    here: str = field(default_factory=os.getcwd)

    def folder(self, shard: Shard) -> str:
        """Return the folder of a shard."""
        return f"{self.out.rstrip('/')}/{shard.index:06d}"

    def finished(self, shard: Shard) -> bool:
        """Tell whether a shard is there."""
        if "://" not in self.out:
            return (Path(self.folder(shard)) / SHARD).is_file()
        system, path = file_systems().core.url_to_fs(self.folder(shard))
        return bool(system.exists(f"{path}/{SHARD}"))


class Actor:
    """A worker: it loads what the work needs once, and makes shards."""

    def __init__(self, job: Job) -> None:
        import torch

        if Path(job.here).is_dir():
            os.chdir(job.here)
        torch.set_num_threads(max(1, job.workers))
        self.job, self.write = job, job.work.start(job.workers)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make one shard, and say how many images it has."""
        task = Task.of_row(row)
        with tempfile.TemporaryDirectory(prefix="gwapctl-") as folder:
            out = self._temporary(task.shard, Path(folder))
            done = self.write(task, out, Path(folder))
            if self.job.rows == "parquet":
                _write_table(out)
            self._publish(out, task.shard)
        return {"shard": task.shard.index, **done._asdict(), "pid": os.getpid()}

    def _temporary(self, shard: Shard, folder: Path) -> Path:
        """Return a new folder to write into: beside the shard's where it can be renamed to that."""
        if "://" in self.job.out:
            return folder / "out"
        final = Path(self.job.folder(shard))
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob(f".{final.name}-*"):  # of a worker that was killed at this shard
            shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))

    def _publish(self, out: Path, shard: Shard) -> None:
        """Make the shard appear; its ``shard.json`` comes last."""
        final = self.job.folder(shard)
        if "://" not in final:
            if Path(final).is_dir():  # half of a shard cannot be: it is the same one, made before
                shutil.rmtree(final)
            out.chmod(0o755)
            out.rename(final)
            return
        system, path = file_systems().core.url_to_fs(final)
        files = [file for file in sorted(out.rglob("*")) if file.is_file() and file.name != SHARD]
        for file in [*files, out / SHARD]:
            name = f"{path}/{file.relative_to(out).as_posix()}"
            system.makedirs(name.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), name)


def run_on_ray(
    job: Job, tasks: Sequence[Task], *, actors: int | None = None, resume: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield ``{"shard", "images", "failed", "pid"}`` of every shard as it is finished.

    ``actors``: None is one per GPU, or without a GPU one per core. The cluster is what ``RAY_ADDRESS`` names,
    else one on this machine alone.

    Raises:
        UsageError: ``job.out`` has shards, and nobody said to resume.
        MissingDependencyError: Ray is not installed.

    """
    todo = [task for task in tasks if not job.finished(task.shard)]
    if len(todo) < len(tasks) and not resume:
        more = f"Continue with {option('resume', True)}, or choose another {option('out')}"
        raise UsageError(f"{job.out} has shards already. {more}.")
    if not todo:
        return
    ray = _started()
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0)) if job.work.device in ("auto", "cuda") else 0
        cores = int(ray.cluster_resources().get("CPU", 1))
        count = min(actors or gpus or max(1, cores // max(1, job.workers)), len(todo))
        data = needed("ray.data")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        strategy = data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2)
        resources: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": min(job.workers, cores) or 1}
        table = data.from_items([task.row for task in todo], override_num_blocks=len(todo))
        done = table.map(Actor, fn_constructor_args=(job,), compute=strategy, **resources)
        for row in done.iter_rows():
            yield {name: int(value) for name, value in row.items()}
    finally:
        ray.shutdown()


def _started() -> Any:
    """Start or join Ray: nothing is reported to its makers, and a cluster of one machine listens on that alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        ray = needed("ray")
    except MissingDependencyError as error:
        raise MissingDependencyError("Ray is not installed. Run: pip install 'gwapctl[ray]'.") from error
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level="ERROR")
    else:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
    return ray


def _write_table(out: Path) -> None:
    """Write the predictions as a Parquet table as well, one row per image."""
    arrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    number, text = arrow.float64(), arrow.string()
    found = {"label": text, "label_id": text, "score": number, "box": arrow.list_(number), "map": text, "doubt": number}
    columns = {"id": text, "image": text, "width": arrow.int64(), "height": arrow.int64(), "model": text}
    columns |= {"predictions": arrow.list_(arrow.struct([*found.items()])), "error": text, "none": arrow.bool_()}
    rows = [json.loads(line) for line in (out / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["error"] = None if row["error"] is None else row["error"]["message"]
        row["predictions"] = [{name: one.get(name) for name in found} for one in row["predictions"]]
    schema = arrow.schema([*columns.items()])
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), out / TABLE)


def check_resumed(job: Job, settings: Mapping[str, Any], task: Task) -> None:
    """Refuse to continue shards in a folder that are of other images or settings than those of this call's tasks."""
    if "://" in job.out:
        return
    for file in sorted(Path(job.out).glob(f"*/{SHARD}"))[:1]:
        record = read_record(file.parent)
        other = [name for name, value in settings.items() if record.settings.get(name) != json.loads(json.dumps(value))]
        if other or (record.whole, record.shard.count) != (task.whole, task.shard.count):
            what = f"another {other[0]}" if other else "other images, or another size of shards"
            raise UsageError(
                f"{job.out} was begun with {what}. Repeat it as it was, or choose another {option('out')}."
            )
