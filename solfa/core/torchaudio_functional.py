"""`torchaudio.functional`, imported in one place, so that a torchaudio built for another torch ends in one sentence.

torchaudio is compiled against one torch build, but its package asks for "2.11 or newer": pip can install a pair that does
not load (another version, or a CUDA build beside a CPU-only torch).
"""

from importlib.metadata import version

from solfa.core.errors import UserError

try:
    from torchaudio import functional as functional
except OSError as e:  # what the loader of shared libraries raises; a missing torchaudio stays a ModuleNotFoundError
    raise UserError(
        f"torchaudio {version('torchaudio')} does not load beside torch {version('torch')}: install a pair that was built "
        'together, as in "pip install -c constraints.txt ." (CPU only: take both from PyTorch\'s CPU index)'
    ) from e
