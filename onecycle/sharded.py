"""Checkpoints of a model that ``fully_shard`` has spread over the ranks: each writes and reads its own part."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from lrfind.ranks import is_sharded
from lrfind.workload import Workload
from onecycle.checkpoint import FORMAT, VERSION, CheckpointError, Checkpoints, place_of, remove, unreadable
from onecycle.state import local

# Names in the checkpoint: what is the same on all ranks, and the place of each in its data.
COMMON, PLACE = "common", "place/"


class ShardedCheckpoints(Checkpoints):
    """Like ``Checkpoints``, each a folder ``step-00000150.shards`` in the format of ``torch.distributed.checkpoint``.

    No rank holds or writes more of the weights and the optimizer's state than its own part. Another number of ranks
    reads them as well: each part is put together from those that overlap it.

    Args:
        folder: Where they lie, for all ranks the same.
        work: What is trained; its model is sharded over one dimension of ranks.

    Raises:
        ValueError: If the model is sharded over a mesh of several dimensions.
    """

    suffix = ".shards"
    others = "a model that was not sharded"

    def __init__(self, folder: Path, work: Workload) -> None:
        super().__init__(folder, work.ranks)
        self._work = work
        mesh = next(parameter.device_mesh for parameter in work.model.parameters() if isinstance(parameter, DTensor))
        if mesh.ndim != 1:
            raise ValueError(
                f"out_dir needs a model that is sharded over one dimension of ranks; got a mesh of {mesh.ndim} "
                "dimensions. Train without out_dir, or shard over a mesh of one dimension."
            )
        # A group of its own, for the thread that writes while the others train; and on the CPU, where records lie.
        self._group = dist.new_group(dist.get_process_group_ranks(mesh.get_group()), backend="gloo")
        assert isinstance(self._group, dist.ProcessGroup), "this rank is one of them"
        self._mesh = DeviceMesh.from_group(self._group, "cpu")

    def _content(self, record: dict[str, Any]) -> dict[str, Tensor]:
        content = {f"{PLACE}{self.ranks.rank}": _as_bytes(record["place"])}
        common = record | {"place": None, "work": _with_new_containers(record["work"])}
        for part in self._parts(common["work"]):
            for key in part.sharded():
                content[part.name(key)] = self._on_mesh(part.values.pop(key), part.layout)
        if self.ranks.first:
            content[COMMON] = _as_bytes({"format": FORMAT, "version": VERSION, **common})
        return content

    def _put(self, path: Path, content: dict[str, Tensor]) -> None:
        save(content, checkpoint_id=path, process_group=self._group)

    def _take_in(self, partial: Path, target: Path, step: int) -> None:
        remove(target)  # a folder does not take the place of another
        super()._take_in(partial, target, step)

    def _prove(self, path: Path) -> None:
        """Nothing: ``_as_bytes`` has read back all that is not tensors."""

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            return self._loaded(path)
        except (Exception, CheckpointException) as error:  # whatever a broken checkpoint makes the reader raise
            reasons = error.failures.values() if isinstance(error, CheckpointException) else [error]
            reason, *_ = [part[0] if isinstance(part, tuple) else part for part in reasons]
            raise CheckpointError(f"{path} is damaged or no checkpoint: {type(reason).__name__}: {reason}.") from error

    def _loaded(self, path: Path) -> dict[str, Any]:
        written: Any = FileSystemReader(path).read_metadata().state_dict_metadata
        ranks = sum(name.startswith(PLACE) for name in written)
        place = f"{PLACE}{self.ranks.rank if self.ranks.rank < ranks else 0}"
        plain = {name: torch.empty(written[name].size, dtype=torch.uint8) for name in (COMMON, place)}
        load(plain, checkpoint_id=path, process_group=self._group)
        record: dict[str, Any] = _from_bytes(plain[COMMON])
        record["place"] = _from_bytes(plain[place])
        if self.ranks.rank >= ranks:
            record["place"] = place_of(self.ranks.rank, [record["place"]])
        content: dict[str, DTensor] = {}
        for part in self._parts(record["work"]):
            for key in part.among(written):
                own = torch.empty(local(part.layout).shape, dtype=written[part.name(key)].properties.dtype)
                content[part.name(key)] = self._on_mesh(own, part.layout)
                part.values[key] = own
        load(content, checkpoint_id=path, process_group=self._group)
        return record

    def _on_mesh(self, own: Tensor, layout: DTensor) -> DTensor:
        return DTensor.from_local(
            own, self._mesh, layout.placements, run_check=False, shape=layout.shape, stride=layout.stride()
        )

    def _parts(self, state: dict[str, Any]) -> Iterator[_Part]:
        """Yield where in the state of a workload the sharded tensors are, or belong."""
        values = state["modules"]["model"]["state"]
        for name, tensor in self._work.module.state_dict().items():
            if is_sharded(tensor):
                yield _Part(values, "model/", tensor, only=name)
        parameters = [parameter for group in self._work.optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            if is_sharded(parameter) and index in state["optimizer"]["state"]:
                yield _Part(state["optimizer"]["state"][index], f"optimizer/{index}/", parameter)


@dataclass(frozen=True)
class _Part:
    """A dictionary in which tensors are laid out over the ranks like ``layout``: all of its shape, or one by name."""

    values: dict[str, Any]
    prefix: str
    layout: Any
    only: str | None = None

    def name(self, key: str) -> str:
        """Return the name in a checkpoint."""
        return self.prefix + key

    def sharded(self) -> list[str]:
        """Return the keys of the tensors that are there."""
        if self.only is not None:
            return [self.only]
        shape = local(self.layout).shape
        return [key for key, value in self.values.items() if isinstance(value, Tensor) and value.shape == shape]

    def among(self, names: Iterable[str]) -> list[str]:
        """Return the keys of the tensors that are in a checkpoint of these names."""
        if self.only is not None:
            return [self.only]
        return [name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix)]


def _with_new_containers(value: Any) -> Any:
    return {key: _with_new_containers(part) for key, part in value.items()} if isinstance(value, dict) else value


def _as_bytes(value: Any) -> Tensor:
    file = io.BytesIO()
    torch.save(value, file)
    content = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    try:  # what needs code to be read is refused now, not when it is needed
        _from_bytes(content)
    except pickle.UnpicklingError as error:
        raise unreadable(error) from error
    return content


def _from_bytes(content: Tensor) -> Any:
    return torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
