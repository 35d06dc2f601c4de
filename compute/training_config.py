"""Settings of the training of MACE models, by the names that mace-torch gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from ..schemas.config import Config, Field, horizon

Interaction = Literal[
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
]
Loss = Literal[
    "weighted", "ef", "forces_only", "virials", "stress", "huber", "universal", "l1l2energyforces",
    "energy_forces_dipole",
]  # fmt: skip
IRREPS = r"^\d+x\d+[eo]( ?\+ ?\d+x\d+[eo])*$"
LAYERS = ("embedding_lr_factor", "interactions_lr_factor", "products_lr_factor", "readouts_lr_factor")


class Architecture(Config):
    """What the model is; a fine-tuned model has the architecture of its foundation instead."""

    model: Literal["MACE", "ScaleShiftMACE", "EnergyDipolesMACE"] = Field(
        "MACE", description="Type of the model; ScaleShiftMACE also shifts the energies by their mean."
    )
    r_max: float = Field(5.0, gt=0, le=50, description="Cutoff of the neighbours (Angstrom).")
    num_channels: int = Field(128, ge=1, description="Channels of the node features.")
    max_L: int = Field(1, ge=0, le=4, description="Highest rotation order of the messages.")
    max_ell: int = Field(3, ge=0, le=6, description="Highest order of the spherical harmonics.")
    num_interactions: int = Field(2, ge=1, le=8, description="Layers of message passing.")
    correlation: int = Field(3, ge=1, le=6, description="Correlation order of each layer; the body order less one.")
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = Field("bessel", description="Type of the radial basis.")
    num_radial_basis: int = Field(8, ge=1, description="Functions of the radial basis.")
    num_cutoff_basis: int = Field(5, ge=1, description="Power of the smooth cutoff.")
    radial_MLP: tuple[int, ...] = Field((64, 64, 64), description="Widths of the layers of the radial network.")
    interaction: Interaction = Field("RealAgnosticResidualInteractionBlock", description="Block of the later layers.")
    interaction_first: Interaction = Field(
        "RealAgnosticResidualInteractionBlock",
        description="Block of the first layer; the model MACE takes one without Residual in its name.",
    )
    MLP_irreps: str = Field("16x0e", pattern=IRREPS, description="Hidden features of the last readout, as 16x0e.")
    gate: Literal["silu", "tanh", "abs", "None"] = Field("silu", description="Nonlinearity of the last readout.")
    pair_repulsion: bool = Field(False, description="Add the repulsion of Ziegler, Biersack and Littmark.")
    distance_transform: Literal["None", "Agnesi", "Soft"] = Field(
        "None", description="Transform of the distances before the radial basis."
    )
    apply_cutoff: bool = Field(True, description="Apply the cutoff to the radial basis before its network.")
    use_reduced_cg: bool = Field(False, description="Reduced Clebsch-Gordan coefficients.")
    use_so3: bool = Field(False, description="Rotations only, without inversion.")
    use_agnostic_product: bool = Field(False, description="Products that do not depend on the element.")
    use_last_readout_only: bool = Field(False, description="Read energies from the last layer alone.")
    edge_irreps: str | None = Field(
        None, pattern=IRREPS, description="Features of the edges, as 16x0e + 16x1o; null: those of the nodes."
    )
    use_edge_irreps_first: bool = Field(False, description="Use edge_irreps in the first layer too.")
    scaling: Literal["rms_forces_scaling", "std_scaling", "no_scaling"] = Field(
        "rms_forces_scaling", description="What the energies of interaction are scaled by."
    )
    compute_avg_num_neighbors: bool = Field(True, description="Count the neighbours in the training frames.")
    avg_num_neighbors: float = Field(1.0, gt=0, description="Mean number of neighbours, where it is not to be counted.")
    default_dtype: Literal["float32", "float64"] = Field("float64", description="Precision of weights and training.")
    E0s: dict[int, float] | Literal["set", "average", "foundation", "estimated"] = Field(
        "set",
        description="Energies of isolated atoms (eV): those of the training set, a least-squares fit (average), those "
        "of the foundation model, a correction to these (estimated), or given as Z: energy.",
    )


class FineTuning(Config):
    """How a foundation model is tuned; of no use without one."""

    foundation_model_elements: bool = Field(
        False, description="Keep all elements of the foundation model, not only those of the training set."
    )
    foundation_filter_elements: bool = Field(True, description="Take over the readouts of the foundation model too.")
    freeze: int = Field(
        0, ge=0, le=7, description="Freeze: from 1 the embedding, 5 interactions, 6 products, 7 readouts; 0: nothing."
    )
    lora: bool = Field(False, description="Train low-rank additions to the weights (LoRA), merged when stored.")
    lora_rank: int = Field(4, ge=1, description="Rank of the additions.")
    lora_alpha: float = Field(1.0, gt=0, description="Scale of the additions, divided by the rank.")
    multiheads_finetuning: bool = Field(
        True, description="With frames to replay: keep what the foundation model knew by training on them in a head."
    )
    force_mh_ft_lr: bool = Field(
        False, description="Keep lr and ema as given; otherwise replay takes lr 1e-4 and ema_decay 0.99999."
    )
    weight_pt_head: float = Field(1.0, gt=0, description="Weight of the frames to replay in the loss.")
    real_pt_data_ratio_threshold: float = Field(
        0.1, ge=0, description="Repeat the training frames where there are fewer than this share of those to replay."
    )
    pseudolabel_replay: bool = Field(
        False, description="Label the frames to replay with the foundation model instead of taking their labels."
    )


class Training(Architecture, FineTuning):
    """Training of a MACE model, from scratch or from a foundation model."""

    loss: Loss = Field("weighted", description="Loss function.")
    energy_weight: float = Field(1.0, ge=0, description="Weight of the energies in the loss.")
    forces_weight: float = Field(100.0, ge=0, description="Weight of the forces in the loss.")
    stress_weight: float = Field(1.0, ge=0, description="Weight of the stress in the loss.")
    virials_weight: float = Field(1.0, ge=0, description="Weight of the virials in the loss.")
    dipole_weight: float = Field(1.0, ge=0, description="Weight of the dipoles in the loss.")
    huber_delta: float = Field(0.01, gt=0, description="Where the Huber loss goes from square to linear.")
    batch_size: int = Field(10, ge=1, description="Frames of a training batch; the last, smaller one is left out.")
    valid_batch_size: int = Field(10, ge=1, description="Frames of a validation batch.")
    max_num_epochs: int = horizon(2048, ge=1, description="Number of epochs; a finished training can be extended.")
    patience: int = Field(
        2048, ge=1, description="Stop (or go to stage two) after so many evaluations without a lower loss."
    )
    eval_interval: int = Field(1, ge=1, description="Epochs from one evaluation to the next.")
    optimizer: Literal["adam", "adamw", "schedulefree"] = Field("adam", description="Optimizer.")
    lr: float = Field(0.01, gt=0, description="Learning rate.")
    weight_decay: float = Field(5e-7, ge=0, description="Decay of the weights (L2).")
    beta: float = Field(0.9, ge=0, lt=1, description="First momentum of adam and adamw.")
    beta1_schedulefree: float = Field(0.9, ge=0, lt=1, description="First momentum of schedulefree.")
    beta2_schedulefree: float = Field(0.98, ge=0, lt=1, description="Second momentum of schedulefree.")
    amsgrad: bool = Field(True, description="The AMSGrad variant of the optimizer.")
    lr_params_factors: dict[str, float] = Field(
        {}, description=f"Factors on lr of parts of the model: {', '.join(LAYERS)}."
    )
    lbfgs: bool = Field(False, description="Use L-BFGS, one step over all frames an epoch.")
    scheduler: Literal["ReduceLROnPlateau", "ExponentialLR"] = Field(
        "ReduceLROnPlateau", description="How the learning rate falls."
    )
    lr_factor: float = Field(0.8, gt=0, lt=1, description="Factor on lr at a plateau.")
    scheduler_patience: int = Field(50, ge=0, description="Epochs without a lower loss that make a plateau.")
    lr_scheduler_gamma: float = Field(0.9993, gt=0, le=1, description="Factor on lr of ExponentialLR at each epoch.")
    clip_grad: float | None = Field(10.0, gt=0, description="Largest norm of the gradients; null: any.")
    ema: bool = Field(False, description="Evaluate and store an exponential moving average of the weights.")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="Decay of that average.")
    swa: bool = Field(False, description="End with a stage two, of another learning rate and loss weights.")
    start_swa: int | None = Field(
        None, ge=1, description="First epoch of stage two; null: after three quarters of max_num_epochs."
    )
    swa_lr: float = Field(1e-3, gt=0, description="Learning rate in stage two.")
    swa_energy_weight: float = Field(1000.0, ge=0, description="Weight of the energies in stage two.")
    swa_forces_weight: float = Field(100.0, ge=0, description="Weight of the forces in stage two.")
    swa_stress_weight: float = Field(10.0, ge=0, description="Weight of the stress in stage two.")
    swa_virials_weight: float = Field(10.0, ge=0, description="Weight of the virials in stage two.")
    swa_dipole_weight: float = Field(1.0, ge=0, description="Weight of the dipoles in stage two.")
    split_seed: int | None = Field(
        None, ge=0, description="Draw training and validation frames anew with this seed; null: as in the set."
    )
    epochs_per_commit: int = Field(1, ge=1, description="Epochs that are stored together; a kill loses fewer.")

    @model_validator(mode="before")
    @classmethod
    def _stage_two_has_a_start(cls, values: Any) -> Any:
        """The default start depends on the horizon, so it is fixed here: a longer run with it is another one."""
        if not isinstance(values, Mapping) or str(values.get("swa", "")).lower() not in ("true", "1"):
            return values
        epochs = str(values.get("max_num_epochs", cls.model_fields["max_num_epochs"].default))
        if values.get("start_swa") is not None or not epochs.isdigit():
            return values
        return {**values, "start_swa": max(1, int(epochs) // 4 * 3)}

    @field_validator("lr_params_factors", mode="after")
    @classmethod
    def _known_layers(cls, value: dict[str, float]) -> dict[str, float]:
        for name, factor in value.items():
            if name not in LAYERS or factor < 0:
                raise ValueError(f"take {', '.join(LAYERS)} with factors of 0 or more; found {name}: {factor:g}")
        return value

    @field_validator("radial_MLP", mode="after")
    @classmethod
    def _some_width(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("give at least one width, each of 1 or more")
        return value

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if (self.model == "EnergyDipolesMACE") != (self.loss == "energy_forces_dipole"):
            raise ValueError("the model EnergyDipolesMACE and the loss energy_forces_dipole go together")
        if self.model == "EnergyDipolesMACE" and self.max_L < 1:
            raise ValueError("a model of dipoles needs max_L of 1 or more")
        if self.model == "ScaleShiftMACE" and self.scaling == "no_scaling":
            raise ValueError("the model ScaleShiftMACE needs a scaling, which also gives the shift")
        if self.start_swa is not None and not self.swa:
            raise ValueError("start_swa needs swa = true")
        if self.swa and self.loss == "forces_only":
            raise ValueError("stage two does not go with the loss forces_only, which has no weight to change")
        if self.swa and self.lbfgs:
            raise ValueError("stage two does not go with lbfgs, which has no learning rate to change")
        if self.lora and self.freeze:
            raise ValueError("lora freezes the weights itself; leave freeze at 0")
        return self
