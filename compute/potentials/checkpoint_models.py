"""MACE models as plain descriptions and tensors, and back; classes come from a list of names."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import mace.calculators  # noqa: F401 - e3nn can only be imported after it
import numpy as np
import torch
from e3nn import o3  # type: ignore[import-untyped]
from mace import data as mace_data
from mace import modules
from mace.modules.blocks import ScaleShiftBlock
from mace.tools import AtomicNumberTable, torch_geometric
from mace.tools.scripts_utils import extract_config_mace_model

from ...schemas.errors import InvalidData, nearest
from .checkpoint import StoredModel
from .mace_arithmetic import steady

CLASSES = MappingProxyType(
    {cls.__name__: cls for cls in (modules.MACE, modules.ScaleShiftMACE, modules.EnergyDipolesMACE)}
)
MODEL_TYPES = MappingProxyType({"MACE": "MACE", "ScaleShiftMACE": "MACE", "EnergyDipolesMACE": "EnergyDipoleMACE"})
REFUSED = MappingProxyType(
    {
        "AtomicDipolesMACE": "it has no energies, and nothing here asks for dipoles alone",
        "AtomicDielectricMACE": "it has no energies, and nothing here asks for polarizabilities alone",
        "MACELES": "it is built with the package les, of which nothing is kept here",
        "PolarMACE": "it is built with the package graph_longrange, of which nothing is kept here",
    }
)
"""Classes of mace-torch that are not stored, and why."""
_RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")
_BLOCKS = ("interaction_cls", "interaction_cls_first")
_SCALED = ("atomic_inter_scale", "atomic_inter_shift")
_NOT_OF_DIPOLES = (
    *_SCALED,
    *"heads readout_cls pair_repulsion radial_type embedding_specs use_agnostic_product".split(),
    *"use_last_readout_only use_embedding_readout".split(),
)


def described(module: torch.nn.Module, *, built_in: str | None = None) -> StoredModel:
    """The description and the tensors of a model.

    Parameters
    ----------
    module : torch.nn.Module
        Of a class in ``CLASSES``.
    built_in : str, optional
        The default dtype when it was built, where that is known. Otherwise it is found by trial: constants that were
        computed in single precision differ from those in double precision, and the rebuilt model must not.

    Raises
    ------
    InvalidData
        If the class is unknown, or what is rebuilt predicts something else.
    """
    name = type(module).__name__
    if CLASSES.get(name) is not type(module):
        raise _unknown(name, "model")
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    told = {
        "class": name,
        "arguments": _arguments(module),
        "dtype": dtype,
        "built_in": built_in or dtype,
        "head": _head(module),
    }
    tensors = {key: value.detach().cpu().numpy().copy() for key, value in module.state_dict().items()}
    model = StoredModel(told, tensors)
    if built_in is not None:
        return model
    for trial in dict.fromkeys((dtype, "float32", "float64")):
        model = StoredModel({**told, "built_in": trial}, tensors)
        if _same_predictions(module, rebuilt(model, name)):
            return model
    raise InvalidData(
        "This model cannot be rebuilt from its settings and weights to the same predictions.",
        expected=f"a model that mace-torch built as {name}",
        found="other predictions after it was rebuilt",
        hint="it may have been changed after it was built, for example for another back end (cuEquivariance)",
    )


def rebuilt(model: StoredModel, where: str) -> torch.nn.Module:
    """Build a model from its description and load its tensors.

    Raises
    ------
    InvalidData
        If a class is unknown, or tensors and description do not fit together.
    """
    told = model.description
    name = str(told["class"])
    if name not in CLASSES:
        raise _unknown(name, "model", where)
    _objects(told["arguments"], where)  # refuses unknown names
    prototype = _prototype(name, json.dumps(told["arguments"], sort_keys=True), str(told["built_in"]))
    module = copy.deepcopy(prototype).to(getattr(torch, str(told["dtype"])))
    state = module.state_dict()
    wrong = sorted(set(state) ^ set(model.tensors)) or [
        key for key, value in state.items() if tuple(value.shape) != model.tensors[key].shape
    ]
    if wrong:
        raise InvalidData(
            "The tensors of this checkpoint do not fit its description.",
            key=where,
            expected=f"the {len(state)} tensors of a {name} with these settings",
            found=f"{wrong[0]} (and {len(wrong) - 1} others) missing, unknown or of another shape",
            hint="the checkpoint was changed after it was written; `h5ml audit` finds where",
        )
    module.load_state_dict({key: torch.tensor(value) for key, value in model.tensors.items()})
    return module.eval()


@functools.lru_cache(maxsize=8)
def _prototype(name: str, arguments: str, built_in: str) -> torch.nn.Module:
    """A model of these settings, of random weights, to be copied.

    Its construction compiles and contracts for about a second; a copy takes a tenth of that.
    """
    with default_dtype(built_in), torch.random.fork_rng(devices=[]):
        return CLASSES[name](**_objects(json.loads(arguments), name))


@contextlib.contextmanager
def default_dtype(name: str) -> Iterator[None]:
    """Compute with a default dtype, and give the process its own back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Read:
    """An object with other attributes in front of its own."""

    def __init__(self, behind: Any, **front: Any) -> None:
        self.__dict__.update(front)
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)


class ScaleShiftMACE(_Read):
    """A model as ``extract_config_mace_model`` can read it.

    It knows classes by their names, and wants a scale and Bessel functions, which not all models have.
    """

    def __init__(self, module: Any) -> None:
        radial = module.radial_embedding
        functions = _Read(radial.bessel_fn, bessel_weights=range(radial.out_dim))
        scale = getattr(module, "scale_shift", None) or ScaleShiftBlock(1.0, 0.0)
        super().__init__(module, scale_shift=scale, radial_embedding=_Read(radial, bessel_fn=functions))


def _arguments(module: Any) -> dict[str, Any]:
    """Arguments of the constructor as JSON."""
    scaled = isinstance(module, modules.ScaleShiftMACE)
    readable: Any = ScaleShiftMACE(module)
    found = dict(extract_config_mace_model(readable))
    found["radial_type"] = _RADIAL[type(module.radial_embedding.bessel_fn).__name__]
    if found.pop("cueq_config") is not None:
        raise InvalidData(
            "This model was converted to the cuEquivariance back end.",
            expected="a model in the form of e3nn",
            found="a converted model",
            hint="convert it back with mace_cueq_to_e3nn first",
        )
    if not scaled:
        found = {name: value for name, value in found.items() if name not in _SCALED}
    if isinstance(module, modules.EnergyDipolesMACE):
        found = {name: value for name, value in found.items() if name not in _NOT_OF_DIPOLES}
        last: Any = module.readouts[-1]
        found["MLP_irreps"] = last.hidden_irreps
        found["gate"] = last.equivariant_nonlin._act_scalar  # noqa: SLF001 - it shows nowhere else
    if found["num_interactions"] == 1:
        # the only layer keeps scalars alone; which others were asked for shows nowhere, and changes nothing
        found["hidden_irreps"] = o3.Irreps(str(module.products[0].linear.irreps_out))
    gates = {id(gate): name for name, gate in modules.gate_dict.items()}
    found["gate"] = gates[id(found["gate"])]
    for name in (*_BLOCKS, "readout_cls"):
        if name in found:
            found[name] = found[name].__name__
    for name in _IRREPS:
        found[name] = None if found[name] is None else str(found[name])
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic | torch.Tensor) else value


def _objects(arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments of the constructor from JSON; classes and functions by their names in mace-torch's lists."""
    found = dict(arguments)
    lists: dict[str, Mapping[str, Any]] = {
        **dict.fromkeys(_BLOCKS, modules.interaction_classes),
        "readout_cls": modules.readout_classes,
        "gate": modules.gate_dict,
    }
    for name, known in lists.items():
        if name in found:
            if found[name] not in known:
                raise _unknown(str(found[name]), name, where, known)
            found[name] = known[found[name]]
    for name in _IRREPS:
        found[name] = None if found[name] is None else o3.Irreps(found[name])
    for name in ("atomic_energies", *_SCALED):
        if name in found:
            found[name] = np.array(found[name])
    return found


def _head(module: Any) -> str:
    """The head that predictions are made with: the one that was trained for, not the one that was replayed."""
    heads = list(getattr(module, "heads", ["Default"]))
    return "Default" if "Default" in heads else str(heads[-1])


def _same_predictions(one: Any, other: Any) -> bool:
    """Whether energies and forces of a random cluster of all elements agree to the last bit."""
    numbers = [int(z) for z in one.atomic_numbers][:8] * 2
    positions = np.random.default_rng(0).uniform(0.0, 0.6 * float(one.r_max), (len(numbers), 3))
    dtype = str(next(one.parameters()).dtype).removeprefix("torch.")
    config = mace_data.Configuration(np.array(numbers), positions, {}, {}, np.zeros((3, 3)), (False,) * 3)
    heads = list(getattr(one, "heads", ["Default"]))
    found = []
    for module in (one, other):
        device = next(module.parameters()).device
        with default_dtype(dtype), steady(device):
            graph = mace_data.AtomicData.from_config(
                config, AtomicNumberTable([int(z) for z in one.atomic_numbers]), float(one.r_max), heads
            )
            batch = torch_geometric.Batch.from_data_list([graph]).to(device)
            found.append(module(batch.to_dict(), training=False))
    return all(torch.equal(found[0][name].cpu(), found[1][name].cpu()) for name in ("energy", "forces"))


def _unknown(name: str, what: str, where: str | None = None, known: Mapping[str, Any] = CLASSES) -> InvalidData:
    return InvalidData(
        f"This class of {what} is unknown.",
        key=where,
        expected=", ".join(known),
        found=name,
        hint=REFUSED.get(name) or nearest(name, known) or "h5ml builds only classes that it knows",
    )
