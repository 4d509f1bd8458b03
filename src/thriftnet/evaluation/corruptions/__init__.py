"""The nineteen corruptions of CIFAR-10-C at five severities (Hendrycks and Dietterich 2019, arXiv 1903.12261)."""

from thriftnet.evaluation.corruptions.catalogue import BENCHMARK, CORRUPTIONS, EXTRA, SEVERITIES, corrupt, unsuitable

__all__ = ["BENCHMARK", "CORRUPTIONS", "EXTRA", "SEVERITIES", "corrupt", "unsuitable"]
