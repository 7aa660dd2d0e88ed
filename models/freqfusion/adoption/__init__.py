# SPDX-License-Identifier: Apache-2.0
"""Proves and replaces the FreqFusions that somebody's own network carries.

From what stands on nothing to what users call:

    forms             How a module is called and what it gives.
    odd_sizes         Filters that enlarge to any size, not only to twice it.
    replacements      What is put in place: it computes with the user's own convolutions.
    reading           What a foreign module is, by its parameters' names and shapes.
    recording         What the user's own modules compute, on the user's inputs or on random ones.
    proving           Which reading of a module computes what it computes.
    network           ``adopt``: finds, proves, replaces, checks the whole.
    report            What was done.
"""

from freqfusion.adoption.network import adopt
from freqfusion.adoption.report import AdoptedModule, AdoptionReport, LeftModule

__all__ = ["AdoptedModule", "AdoptionReport", "LeftModule", "adopt"]
