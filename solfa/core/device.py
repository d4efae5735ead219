"""Which device a command runs on."""

import torch

from solfa.core.errors import UserError


def pick(name: str = "auto") -> torch.device:
    """`auto` means CUDA where there is one, else the CPU.

    Raises: UserError for a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"device {name!r} is not available here; use auto or cpu") from None
    return device
