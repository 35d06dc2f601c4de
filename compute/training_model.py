"""What mace-torch's training is made of, put together as ``mace_run_train`` does: model, data, loss, optimizer.

Everything is built by mace-torch's own functions, from its own parser's defaults, and in its order, so that the same
data, settings and seed give the same start.
"""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mace.calculators  # noqa: F401 - e3nn can only be imported after it
import torch
from mace import tools
from mace.modules.lora import inject_LoRAs, merge_lora_weights
from mace.tools import AtomicNumberTable
from mace.tools.model_script_utils import configure_model
from mace.tools.multihead_tools import apply_pseudolabels_to_pt_head_configs
from mace.tools.scripts_utils import (
    LRScheduler,
    SubsetCollection,
    dict_to_array,
    get_avg_num_neighbors,
    get_loss_fn,
    get_optimizer,
    get_params_options,
    get_swa,
    remove_pt_head,
)
from mace.tools.train import SWAContainer
from torch_ema import ExponentialMovingAverage

from ..schemas.errors import InvalidConfig, InvalidData
from .potentials.checkpoint import StoredModel, quiet
from .potentials.checkpoint_models import default_dtype, described
from .potentials.mace_arithmetic import steady
from .potentials.mace_engine import usable_device
from .potentials.mace_graphs import GraphBuilder, MaceBatches
from .training_config import LAYERS, Training
from .training_data import OWN, REPLAYED, HeadFrames, atomic_energies
from .training_frames import Frames, joined

if TYPE_CHECKING:
    from .module import Context

_REPLAY_LR, _REPLAY_DECAY = 1e-4, 0.99999
_PASSED = (
    "model r_max num_channels max_L max_ell num_interactions correlation radial_type num_radial_basis num_cutoff_basis "
    "interaction interaction_first MLP_irreps gate pair_repulsion distance_transform apply_cutoff use_reduced_cg "
    "use_so3 use_agnostic_product use_last_readout_only edge_irreps use_edge_irreps_first scaling avg_num_neighbors "
    "default_dtype foundation_model_elements foundation_filter_elements freeze lora lora_rank lora_alpha loss "
    "energy_weight forces_weight stress_weight virials_weight dipole_weight huber_delta batch_size valid_batch_size "
    "max_num_epochs patience eval_interval optimizer lr weight_decay beta beta1_schedulefree beta2_schedulefree "
    "amsgrad lbfgs scheduler lr_factor scheduler_patience lr_scheduler_gamma clip_grad ema ema_decay swa start_swa "
    "swa_lr swa_energy_weight swa_forces_weight swa_stress_weight swa_virials_weight swa_dipole_weight"
).split()


@dataclass
class Parts:
    """All that takes part in the training of one model.

    Attributes
    ----------
    args : Namespace
        Settings as mace-torch's functions read them.
    model, loss_fn, optimizer, lr_scheduler, swa, ema
        As in ``mace.tools.train``; the last two may be None.
    train_loader, valid_loaders
        Batches of frames; validation by head, the trained one last.
    output_args : dict
        Which properties are computed.
    device : torch.device
        Where.
    """

    args: Namespace
    model: torch.nn.Module
    loss_fn: torch.nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler
    swa: SWAContainer | None
    ema: ExponentialMovingAverage | None
    train_loader: Any
    valid_loaders: dict[str, Any]
    output_args: dict[str, bool]
    device: torch.device

    def stored(self) -> StoredModel:
        """The model as it is now, with its LoRA additions merged."""
        model = merge_lora_weights(copy.deepcopy(self.model)) if self.args.lora else self.model
        return described(model, built_in=self.args.default_dtype)


def build(config: Training, heads: Sequence[HeadFrames], foundation: torch.nn.Module | None, context: Context) -> Parts:
    """Put the parts together.

    Parameters
    ----------
    config : Training
        Settings.
    heads : sequence of HeadFrames
        The frames to train on, and those to replay before them where there are any.
    foundation : torch.nn.Module, optional
        What to start from.
    context : Context
        Seed and device.

    Raises
    ------
    InvalidData
        If energies of isolated atoms are missing, or the foundation model does not know an element.
    InvalidConfig
        If settings do not fit the foundation model, or there is no such device.

    Notes
    -----
    The order is that of ``mace.cli.run_train.run``: the loader is read for the mean number of neighbours and for the
    scale before the model is drawn, and both advance its generator.
    """
    with quiet(), default_dtype(config.default_dtype), steady(context.device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        device = tools.init_device(usable_device(context.device))
        args = _namespace(config, context, replay=len(heads) > 1)
        if foundation is not None:
            foundation = _prepared(config, foundation, args, device)
        table = _elements(config, heads, foundation)
        energies = atomic_energies(config, heads, table.zs, foundation, device)
        names = [head.head_name for head in heads]
        if args.pseudolabel_replay and len(heads) > 1:
            _relabel(heads[0], foundation, table, args, device)
        _repeat(heads, config)
        train, valid_loaders = _loaders(heads, table, args, context.seed, device)
        loss_fn = get_loss_fn(args, False, args.compute_dipole)
        args.avg_num_neighbors = get_avg_num_neighbors(_statistics(heads, config, foundation), args, train, device)
        array = dict_to_array(energies, names)
        model, output_args = configure_model(args, train, array, foundation, names, table, heads)
        model.to(device)
        if config.lora:
            scale: Any = config.lora_alpha  # typed as a whole number, which it need not be
            model = inject_LoRAs(model, rank=config.lora_rank, alpha=scale)
        optimizer = get_optimizer(args, get_params_options(args, model))
        scheduler = LRScheduler(optimizer, args)
        swa = get_swa(args, model, optimizer, [False], False)[0] if args.swa else None
        ema = ExponentialMovingAverage(model.parameters(), decay=args.ema_decay) if args.ema else None
        if config.lbfgs:
            optimizer = torch.optim.LBFGS(
                model.parameters(), history_size=200, max_iter=20, line_search_fn="strong_wolfe"
            )
    return Parts(args, model, loss_fn, optimizer, scheduler, swa, ema, train, valid_loaders, output_args, device)


def _namespace(config: Training, context: Context, *, replay: bool) -> Namespace:
    """Our settings on top of the defaults of mace-torch's parser, checked by mace-torch."""
    args: Namespace = tools.build_default_arg_parser().parse_args(["--name", "h5ml"])
    for name in _PASSED:
        setattr(args, name, getattr(config, name))
    args.seed, args.device = context.seed, context.device
    args.radial_MLP = str(list(config.radial_MLP))
    args.freeze = config.freeze or None
    args.lr_params_factors = json.dumps({**dict.fromkeys(LAYERS, 1.0), **config.lr_params_factors})
    args.pseudolabel_replay = config.pseudolabel_replay
    if config.model == "EnergyDipolesMACE":
        args.error_table = "EnergyDipoleRMSE"
    if replay:
        args.loss = "universal"
        if not config.force_mh_ft_lr:
            args.lr, args.ema, args.ema_decay = _REPLAY_LR, True, _REPLAY_DECAY
    start = args.start_swa
    args = tools.check_args(args)[0]
    args.start_swa, args.swa = start, config.swa  # a start beyond the last epoch is reached when it is extended
    args.compute_energy = args.compute_forces = True
    args.compute_dipole = config.model == "EnergyDipolesMACE"
    args.compute_polarizability = False
    return args


def _prepared(config: Training, foundation: Any, args: Namespace, device: torch.device) -> Any:
    """A copy of the foundation model to start from: one head, the precision of the training."""
    if config.model == "EnergyDipolesMACE":
        raise InvalidConfig(
            "mace-torch does not fine-tune models of dipoles.",
            key="model",
            expected="MACE or ScaleShiftMACE",
            found=config.model,
        )
    args.r_max = float(foundation.r_max)
    copied = copy.deepcopy(foundation).to(device=device, dtype=getattr(torch, config.default_dtype))
    if len(getattr(copied, "heads", [OWN])) > 1:
        copied = remove_pt_head(copied)
    for parameter in copied.parameters():
        parameter.requires_grad = True
    return copied


def _elements(config: Training, heads: Sequence[HeadFrames], foundation: Any) -> AtomicNumberTable:
    numbers = sorted({z for head in heads for z in head.numbers})
    if foundation is None:
        return AtomicNumberTable(numbers)
    known = sorted(int(z) for z in foundation.atomic_numbers)
    unknown = sorted(set(numbers) - set(known))
    if unknown:
        raise InvalidData(
            "The foundation model does not know an element of the training set.",
            key="foundation",
            expected=f"atomic numbers among {known}",
            found=unknown,
            hint="take a foundation model of these elements, or train from scratch",
        )
    return AtomicNumberTable(known if config.foundation_model_elements else numbers)


def _statistics(heads: Sequence[HeadFrames], config: Training, foundation: Any) -> Sequence[HeadFrames]:
    """Where the mean number of neighbours comes from: counted, given, or that of the foundation model."""
    for head in heads:
        head.compute_avg_num_neighbors = config.compute_avg_num_neighbors and head.head_name == OWN
        replayed = head.head_name == REPLAYED and foundation is not None
        head.avg_num_neighbors = (
            float(foundation.interactions[0].avg_num_neighbors) if replayed else config.avg_num_neighbors
        )
    return heads


def _relabel(
    head: HeadFrames, foundation: Any, table: AtomicNumberTable, args: Namespace, device: torch.device
) -> None:
    """Energies, forces and stresses of the foundation model in place of the labels of the frames to replay."""
    train, valid = (list(frames.configurations(head.head_name)) for frames in (head.train, head.valid))
    replayed: Any = Namespace(collections=SubsetCollection(train, valid, []), z_table=table, head_name=head.head_name)
    done = apply_pseudolabels_to_pt_head_configs(
        foundation_model=foundation, pt_head_config=replayed, r_max=args.r_max, device=device,
        batch_size=args.batch_size, force_stress=False,
    )  # fmt: skip
    if not done:
        raise InvalidData("The frames to replay could not be labelled with the foundation model.", key="replay")
    head.train = head.train.relabelled(replayed.collections.train)
    head.valid = head.valid.relabelled(replayed.collections.valid)


def _repeat(heads: Sequence[HeadFrames], config: Training) -> None:
    """Repeat the training frames where those to replay outnumber them by far, as mace-torch does."""
    if len(heads) < 2:
        return
    replayed, own = heads
    ratio = len(own.train) / len(replayed.train)
    if ratio < config.real_pt_data_ratio_threshold:
        own.train = own.train.repeated(1 + int(config.real_pt_data_ratio_threshold / ratio))


def _loaders(
    heads: Sequence[HeadFrames], table: AtomicNumberTable, args: Namespace, seed: int, device: torch.device
) -> tuple[Any, dict[str, Any]]:
    """Batches in the order of mace-torch's loaders, and equal to theirs to the last bit."""
    dtype = getattr(torch, args.default_dtype)

    def batches(frames: Frames, head: int, size: int, **how: Any) -> Any:
        made = MaceBatches(frames, GraphBuilder(table.zs, args.r_max, dtype=dtype, head=head), cache_bytes=None)
        generator = torch.Generator().manual_seed(seed)
        return made.loader(size, generator=generator, pin_memory=device.type == "cuda", **how)

    together = joined([head.train for head in heads])
    train = batches(together, 0, args.batch_size, shuffle=True, drop_last=not args.lbfgs)
    valid = {
        head.head_name: batches(head.valid, number, args.valid_batch_size, shuffle=False, drop_last=False)
        for number, head in enumerate(heads)
    }
    return train, valid
