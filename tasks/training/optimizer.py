"""The optimisers: AdamW, and Muon for matrices with AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of each weight
matrix by Newton-Schulz iterations. The update is torch's own (`torch.optim`'s functional form), scaled as
Liu et al. 2025 (arXiv:2502.16982, section 2.2) so that one learning rate suits both halves.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

#: What the optimisers remember of a parameter, by torch's names.
MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTS = ("momentum_buffer",)
_MUON_MOMENTUM = 0.95


def adamw(model: nn.Module, *, betas: tuple[float, float], epsilon: float, weight_decay: float) -> AdamW:
    """AdamW with decay on matrices only (an embedding is one); the learning rate is set at every update."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    other = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": other, "weight_decay": 0.0}]
    return AdamW(groups, lr=0.0, betas=betas, eps=epsilon)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon updates it: a matrix between hidden activations, not a table of rows (embedding, head, bounds)."""
    return parameter.dim() == 2 and not name.startswith(("embeddings.", "lm_head.", "lower_bounds"))


class MuonWithAdamW(Optimizer):
    """Both optimisers behind one interface: one list of groups, one state, one step."""

    def __init__(self, model: nn.Module, *, betas: tuple[float, float], epsilon: float, weight_decay: float) -> None:
        named = dict(model.named_parameters())
        hidden = [parameter for name, parameter in named.items() if is_hidden_matrix(name, parameter)]
        others = [parameter for name, parameter in named.items() if not is_hidden_matrix(name, parameter)]
        tables = [parameter for parameter in others if parameter.dim() >= 2]
        vectors = [parameter for parameter in others if parameter.dim() < 2]
        self._muon = Muon(
            hidden, lr=0.0, weight_decay=weight_decay, momentum=_MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = AdamW(
            [{"params": tables, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=0.0,
            betas=betas,
            eps=epsilon,
        )
        super().__init__([{"params": hidden + others}], {"lr": 0.0})
        # The two share this one's state, and their groups are its groups: setting `lr` here sets it there.
        self._muon.state = self._adamw.state = self.state
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter from its gradient; `closure` is not supported."""
        assert closure is None, "no closure: the gradient has been computed"
        self._muon.step()
        self._adamw.step()


def moment_keys(optimizer: str, name: str, parameter: Tensor) -> tuple[str, ...]:
    """Which moments the optimiser called `optimizer` keeps for a parameter."""
    return MUON_MOMENTS if optimizer == "muon" and is_hidden_matrix(name, parameter) else MOMENTS
