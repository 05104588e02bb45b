"""timbreflow: one-shot music timbre transfer with a VQ-VAE and a conditioned Glow."""

import os

# Threads of OpenMP that spin while they wait for each other are slowed some thirty times by any other program that
# wants a core. The variable counts only when it is set before torch is imported, hence here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
